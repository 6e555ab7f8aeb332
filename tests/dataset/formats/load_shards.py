"""Load shards with Hugging Face `datasets` and with `webdataset`, and print the samples as JSON.

It is a separate program, because `datasets` reads the place of its caches, and whether it may use the network, when it
is imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import webdataset  # type: ignore[import-untyped]


def sample(key: str, image: Any, about: dict[str, Any], caption: str) -> dict[str, Any]:
    return {"key": key, "format": image.format, "size": image.size, "json": about, "txt": caption}


def by_datasets(tar: str, folder: Path, *, streaming: bool) -> list[dict[str, Any]]:
    loaded = datasets.load_dataset(
        "webdataset", data_files=tar, split="train", streaming=streaming, cache_dir=str(folder / "cache")
    )
    return [sample(one["__key__"].split("/")[-1], one["jpg"], one["json"], one["txt"]) for one in loaded]


def by_webdataset(tar: str) -> list[dict[str, Any]]:
    loaded = webdataset.WebDataset(f"file:{tar}", shardshuffle=False)
    raw = {one["__key__"]: one["jpg"] for one in loaded}
    decoded = webdataset.WebDataset(f"file:{tar}", shardshuffle=False).decode("pil")
    samples = []
    for one in decoded:
        assert one["jpg"].mode == "RGB"
        magic = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WEBP", b"GI": "GIF"}.get(raw[one["__key__"]][:2], "AVIF")
        one["jpg"].format = magic
        samples.append(sample(one["__key__"], one["jpg"], one["json"], one["txt"]))
    return samples


if __name__ == "__main__":
    tar_path, work = sys.argv[1], Path(sys.argv[2])
    print(
        json.dumps(
            {
                "datasets, streamed": by_datasets(tar_path, work, streaming=True),
                "datasets": by_datasets(tar_path, work, streaming=False),
                "webdataset": by_webdataset(tar_path),
            }
        )
    )
