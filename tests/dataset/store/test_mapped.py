"""Mapped files."""

from pathlib import Path

import numpy as np
import pytest

from dataset.store.mapped import map_file


def test_a_mapping_holds_the_whole_file_and_no_descriptor(tmp_path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 100_003, dtype=np.uint8)
    path = tmp_path / "file"
    path.write_bytes(content.tobytes())
    before = len([*Path("/proc/self/fd").iterdir()])
    mapped = map_file(path)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    end = mapped[-10:]
    assert (mapped == content).all()
    assert not mapped.flags.writeable
    path.unlink()
    del mapped
    assert (end == content[-10:]).all()
    with pytest.raises(FileNotFoundError):
        map_file(path)
