"""Pictures of all formats, kept as received in one shard, load with Hugging Face `datasets` and with `webdataset`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store

AS_RECEIVED = ImageRules(min_bytes=0, resize_mode=ResizeMode.NO, reencode=False)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")


def kept(position: int) -> Picture:
    file = io.BytesIO()
    Image.new("RGB", (40 + position, 30), (10 * position, 0, 0)).save(file, FORMATS[position % 5])
    picture = prepare(file.getvalue(), AS_RECEIVED)
    assert isinstance(picture, Picture)
    return picture


def test_pictures_kept_as_received_load_with_the_readers_that_people_use(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with ShardWriter(store, "a", job_id=1, subset="en", extra={"tag": "string"}) as shard:
        for position in range(15):
            row = LinkRow(
                position=position,
                pack=1,
                pack_row=position,
                attempt=1,
                final=True,
                language="de" if position > 7 else None,  # readers infer types from the first five samples
                url=f"http://pictures.test/{position}",
                caption="schön",
                outcome=Outcome.SUCCESS,
                extra='{"tag": "x"}' if position > 9 else "",
                picture=kept(position),
            )
            shard.add(row)
        shard.publish()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    script = Path(__file__).with_name("load_shards.py")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path / "store" / "a.tar"), str(tmp_path)],
        capture_output=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-2_000:]
    for reader, samples in json.loads(ran.stdout).items():
        assert [one["key"] for one in samples] == [f"0000000001{n:05d}" for n in range(15)], reader
        assert [one["format"] for one in samples] == [FORMATS[n % 5] for n in range(15)], reader
        assert [one["size"] for one in samples] == [[40 + n, 30] for n in range(15)], reader
        assert {one["txt"] for one in samples} == {"schön"}, reader
        assert [one["json"]["language"] for one in samples] == [""] * 8 + ["de"] * 7, reader
        assert [one["json"]["tag"] for one in samples] == [""] * 10 + ["x"] * 5, reader
