"""Hash lists: a listed picture is found, also one with a near PDQ, and a damaged list is an error, not an empty
list.
"""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.pictures.pdq import pdq_of
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.safety.hash_lists import MAX_DISTANCE, HashListError, HashLists
from dataset.store.store import Store, StoreError
from tests.workers.fetching.odd_web import picture
from tracker.storage.hash_lists import pack

SHA256 = hashlib.sha256(b"one").hexdigest()
MD5 = hashlib.md5(b"one").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def load(store: Store, *hashes: tuple[str, str]) -> HashLists:
    data, _ = pack(hashes)
    store.put("restricted/a", data)
    return HashLists.load(store, "restricted/a", sha256={"restricted/a": hashlib.sha256(data).hexdigest()})


def flipped(pdq: str, bits: int, seed: int = 0) -> str:
    value = int(pdq, 16)
    for bit in np.random.default_rng(seed).permutation(256)[:bits]:
        value ^= 1 << int(bit)
    return f"{value:064x}"


def test_a_list_that_is_missing_cut_off_or_another_is_an_error(store: Store) -> None:
    data, _ = pack([("sha256", SHA256), ("md5", MD5)])
    with pytest.raises(StoreError, match="missing"):
        HashLists.load(store, "restricted/gone")
    for broken in (data[:-3], data[:-8] + b"\0" * 32 + b"x", b"", b"SHOALRL1", data[8:]):
        store.put("restricted/b", broken)
        with pytest.raises(HashListError, match="add it again"):
            HashLists.load(store, "restricted/b")
    store.put("restricted/b", data)
    with pytest.raises(HashListError, match="is not the hash list that the tracker names"):
        HashLists.load(store, "restricted/b", sha256={"restricted/b": "0" * 64})


def test_exact_hashes_are_found_and_others_are_not(store: Store) -> None:
    rng = np.random.default_rng(1)
    many = [("sha256", rng.bytes(32).hex()) for _ in range(1_000)]
    many += [("md5", rng.bytes(16).hex()) for _ in range(1_000)]
    edges = [("md5", "f" * 32), ("sha256", "0" * 64)]
    found = load(store, *many, *edges, ("sha256", SHA256), ("sha256", SHA256), ("md5", MD5))
    assert all(found.matches(**{kind: digest}) for kind, digest in many)
    assert found.matches(sha256=SHA256)
    assert found.matches(sha256="a" * 64, md5=MD5)
    assert found.matches(md5="f" * 32)
    assert found.matches(sha256="0" * 64)
    assert not found.matches(sha256=hashlib.sha256(b"two").hexdigest(), md5=hashlib.md5(b"two").hexdigest())
    assert not found.matches(sha256=MD5 + MD5)
    assert not found.needs_pdq


def test_several_lists_work_as_one_and_no_list_matches_nothing(store: Store) -> None:
    for name, digest in (("a", SHA256), ("b", "1" * 64)):
        store.put(f"restricted/{name}", pack([("sha256", digest)])[0])
    found = HashLists.load(store, ["restricted/a", "restricted/b"])
    assert found.matches(sha256=SHA256)
    assert found.matches(sha256="1" * 64)
    assert not HashLists().matches(sha256=SHA256, md5=MD5, pdq="0" * 64)
    assert not load(store).matches(sha256=SHA256)


def test_a_pdq_within_31_bits_is_found_and_one_of_32_is_not(store: Store) -> None:
    pdq = np.random.default_rng(2).bytes(32).hex()
    found = load(store, ("pdq", pdq), ("pdq", np.random.default_rng(3).bytes(32).hex()))
    assert found.needs_pdq
    assert found.matches(pdq=pdq)
    assert all(found.matches(pdq=flipped(pdq, MAX_DISTANCE, seed)) for seed in range(50))
    assert not any(found.matches(pdq=flipped(pdq, MAX_DISTANCE + 1, seed)) for seed in range(50))


def smooth(width: int = 640, height: int = 420) -> bytes:
    """A picture with a photograph's spectrum, the less of a frequency the higher it is."""
    rng = np.random.default_rng(5)
    distance = np.hypot(np.fft.fftfreq(height, 1 / height)[:, None], np.fft.fftfreq(width, 1 / width)[None])
    spectrum = np.fft.fft2(rng.standard_normal((height, width))) / np.maximum(distance, 1)
    grey = np.fft.ifft2(spectrum).real
    image = Image.fromarray(np.clip(grey / grey.std() * 50 + 128, 0, 255).astype(np.uint8)).convert("RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_a_pictures_pdq_survives_resizing_and_is_of_the_whole_picture(store: Store, mode: ResizeMode) -> None:
    rules = ImageRules(resize_mode=mode, size=256, pdq=True, min_bytes=0)
    kept = prepare(smooth(), rules)
    original = pdq_of(np.asarray(Image.open(io.BytesIO(smooth()))))
    assert isinstance(kept, Picture)
    assert kept.pdq is not None
    assert original is not None
    assert (int(kept.pdq, 16) ^ int(original, 16)).bit_count() <= 16
    assert load(store, ("pdq", original)).matches(pdq=kept.pdq)
    plain = prepare(smooth(), ImageRules(resize_mode=mode, min_bytes=0))
    assert isinstance(plain, Picture)
    assert plain.pdq is None


def test_a_flat_picture_has_no_pdq() -> None:
    assert pdq_of(np.full((100, 100, 3), 128, np.uint8)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000), (5_000, 1), (3, 2)])
def test_any_shape_has_a_pdq_or_none(size: tuple[int, int]) -> None:
    out = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(out, "PNG")
    for mode in ResizeMode:
        assert isinstance(prepare(out.getvalue(), ImageRules(min_bytes=0, pdq=True, resize_mode=mode)), Picture)


@pytest.mark.parametrize("mode", [ResizeMode.NO, ResizeMode.KEEP_RATIO])
def test_the_checksums_are_of_the_bytes_as_received(mode: ResizeMode) -> None:
    data = picture()
    rules = ImageRules(reencode=mode is not ResizeMode.NO, resize_mode=mode)
    kept, without = prepare(data, rules), prepare(data, replace(rules, sha1=False))
    assert isinstance(kept, Picture)
    assert isinstance(without, Picture)
    assert (kept.sha256, kept.md5) == (hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest())
    assert (kept.sha1, without.sha1) == (hashlib.sha1(data).hexdigest(), None)
