"""Heads: invalid files are refused, and each published layout gives the numbers of its formula."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save, save_file
from torch import nn

from dataset.models.inputs import Square
from dataset.recipe.tags import Tag
from dataset.store.store import Store
from dataset.tags.heads import Embedder, Head, HeadError, Layer, Output, add_head, read_head_file
from dataset.tags.picture_heads import (
    LAION,
    PictureLayout,
    converted_detector,
    load_picture_head,
    picture_head_bytes,
)
from dataset.tags.published_heads import published_head, read_state
from tests.dataset.tags.head_layouts import aesthetic_v1, aesthetic_v2, nsfw, nsfw_h14, unit_rows

B32, L14 = (512, 32, 32, 1), (768, 64, 512, 256, 1)


def by_hand(state: dict[str, Any], row: np.ndarray[Any, Any]) -> float:
    """Compute one row through a published head, in float64 and one neuron at a time."""
    values = row.astype(np.float64)
    if "norm.mean" in state:
        values = (values - state["norm.mean"]) / (np.sqrt(state["norm.variance"].astype(np.float64)) + 1e-10)
    weights = [name for name in state if name.endswith("weight")]
    for name in weights:
        bias = state[name.replace("weight", "bias")]
        values = np.array(
            [
                float(np.dot(neuron.astype(np.float64), values)) + float(b)
                for neuron, b in zip(state[name], bias, strict=True)
            ]
        )
        between = name != weights[-1]
        keras, h14 = "norm.mean" in state, "layers.3.weight" in state
        if (keras and between) or (h14 and name not in ("layers.15.weight", "layers.16.weight")):
            values = np.where(values > 0, values, 0)
    last = float(values[0])
    if "norm.mean" in state:
        return float(1 / (1 + np.exp(-last)))
    return min(max(last, 0.0), 1.0) if "layers.3.weight" in state else last


@pytest.mark.parametrize(
    ("layout", "tag"),
    [
        ("nsfw B/32", Tag.PUNSAFE),
        ("nsfw L/14", Tag.PUNSAFE),
        ("nsfw H/14", Tag.PUNSAFE),
        ("aesthetic v1", Tag.AESTHETIC),
        ("aesthetic v2", Tag.AESTHETIC),
    ],
)
def test_a_published_layout_gives_what_its_formula_says(tmp_path: Path, layout: str, tag: Tag) -> None:
    rng = np.random.default_rng(3)
    state = {
        "nsfw B/32": lambda: nsfw(B32, rng),
        "nsfw L/14": lambda: nsfw(L14, rng),
        "nsfw H/14": lambda: nsfw_h14(rng),
        "aesthetic v1": lambda: aesthetic_v1(768, rng),
        "aesthetic v2": lambda: aesthetic_v2(rng),
    }[layout]()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, tmp_path / "published.pth")
    head = published_head(read_state(tmp_path / "published.pth"), "a model", "published.pth")
    rows = unit_rows(6, head.dimensions, rng)
    (tmp_path / "head.safetensors").write_bytes(head.to_bytes())
    scores = read_head_file(tmp_path / "head.safetensors").head().score(rows)
    assert head.tag is tag
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [by_hand(state, row) for row in rows], atol=2e-5)
    assert np.ptp(scores) > 0


@pytest.mark.parametrize(
    "name", ["nsfw-vit-b-32.pth", "nsfw-vit-l-14.pth", "aesthetic-vit-b-32.pth", "aesthetic-vit-l-14.pth"]
)
def test_the_real_heads_give_what_the_formula_says(name: str) -> None:
    folder = os.environ.get("SHOAL_HEADS")
    if folder is None:
        pytest.skip("SHOAL_HEADS names no folder with LAION's heads")
    state = read_state(Path(folder) / name)
    head = published_head(state, "ViT", name)
    rows = unit_rows(20, head.dimensions, np.random.default_rng(1))
    np.testing.assert_allclose(head.score(rows), [by_hand(state, row) for row in rows], atol=2e-4)


# --- what is refused


class Trap:
    """Unpickling one runs code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, tmp_path / "head.pth")
    with pytest.raises(HeadError, match="without running code"):
        read_state(tmp_path / "head.pth")
    np.savez(tmp_path / "head.npz", weight=np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(HeadError, match="without running code"):
        read_state(tmp_path / "head.npz")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("damage", [b"", b"garbage", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, damage: bytes) -> None:
    path = tmp_path / f"head{suffix}"
    path.write_bytes(damage)
    with pytest.raises(HeadError):
        read_state(path)


def test_an_unknown_layout_is_not_guessed() -> None:
    with pytest.raises(HeadError, match="not a published head"):
        published_head({"fc.weight": np.zeros((1, 8), np.float32)}, "a model", "x.pth")
    lacking = nsfw(B32, np.random.default_rng(0))
    del lacking["linear_2.bias"]
    with pytest.raises(HeadError, match="lacks a layer"):
        published_head(lacking, "a model", "x.pth")


@pytest.mark.parametrize(
    "layers",
    [
        (),
        ((np.zeros((4, 8)), np.zeros(4)), (np.zeros((1, 5)), np.zeros(1))),
        ((np.zeros((2, 8)), np.zeros(2)),),
        ((np.zeros((1, 8)), np.zeros(2)),),
        ((np.full((1, 8), np.nan), np.zeros(1)),),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers: tuple[tuple[Any, Any], ...]) -> None:
    with pytest.raises(HeadError):
        Head(Tag.PUNSAFE, tuple(Layer(w, b, False) for w, b in layers), Output.SIGMOID, Embedder("m"))


def test_embeddings_of_another_length_are_refused_with_the_models_name() -> None:
    head = published_head(aesthetic_v1(512, np.random.default_rng(0)), "ViT-B-32-quickgelu", "x")
    with pytest.raises(HeadError, match="ViT-B-32-quickgelu"):
        head.score(np.zeros((2, 768), np.float32))


def test_a_file_with_only_tensors_is_not_a_head(tmp_path: Path) -> None:
    save_file({"weight": np.zeros((1, 8), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(HeadError, match="is not a head"):
        read_head_file(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(
        save({"a": np.zeros(1, np.float32)}, {"shoal.head": '{"format": 1, "kind": "embedding", "tag": "punsafe"}'})
    )
    with pytest.raises(HeadError, match="do not fit"):
        read_head_file(tmp_path / "y.safetensors").head()


def test_a_name_in_the_store_never_changes_its_content(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    first, second = (published_head(aesthetic_v1(8, np.random.default_rng(n)), "m", "x").to_bytes() for n in (1, 2))
    assert add_head(store, "a", first) == add_head(store, "a", first) == "store:heads/a.safetensors"
    with pytest.raises(HeadError, match="choose a new name"):
        add_head(store, "a", second)
    with pytest.raises(HeadError, match="cannot be named"):
        add_head(store, "../a", first)


def test_a_file_is_the_same_whenever_it_is_written() -> None:
    head = published_head(nsfw(B32, np.random.default_rng(0)), "m", "x")
    assert head.to_bytes() == head.to_bytes()


def test_calibration_moves_the_logits_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    head = published_head(nsfw(B32, rng), "m", "x")
    rows = unit_rows(9, 512, rng)
    np.testing.assert_allclose(head.calibrated(2.5, -1).logits(rows), 2.5 * head.logits(rows) - 1, atol=1e-4)


# --- the watermark detector


@pytest.fixture(scope="module")
def detector() -> Any:
    """Build LAION's watermark detector as its authors do, with random weights."""
    import timm

    import dataset.models.torchvision_shim  # noqa: F401 - before timm

    torch.manual_seed(1)
    network = timm.create_model("efficientnet_b3", pretrained=False, num_classes=2)
    network.classifier = nn.Sequential(
        nn.Linear(1536, 625), nn.ReLU(), nn.Dropout(0.3), nn.Linear(625, 256), nn.ReLU(), nn.Linear(256, 2)
    )
    return network.eval()


def test_the_watermark_detector_gives_the_softmaxs_first(tmp_path: Path, detector: Any) -> None:
    from torchvision import transforms

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((90, 200), (256, 256), (31, 7))]
    torch.save(detector.state_dict(), tmp_path / "watermark.pt")
    path = tmp_path / "w.safetensors"
    path.write_bytes(converted_detector(read_state(tmp_path / "watermark.pt"), "watermark.pt"))
    head = load_picture_head(read_head_file(path), device="cpu")
    published = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.inference_mode():
        logits = detector(torch.stack([published(picture) for picture in pictures])).numpy().astype(np.float64)
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1)
    squares = [np.frombuffer(Square(head.side)(picture), np.uint8) for picture in pictures]
    pixels = np.stack(squares).reshape(len(pictures), head.side, head.side, 3)
    np.testing.assert_allclose(head.score(pixels), expected, atol=1e-5)
    assert head.tag is Tag.PWATERMARK
    assert head.score(pixels[:0]).shape == (0,)


def test_a_detector_that_lacks_a_tensor_is_refused(detector: Any) -> None:
    state = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
    del state["classifier.3.bias"]
    with pytest.raises(HeadError, match="classifier"):
        converted_detector(state, "x")


# --- other classifiers

SMALL = PictureLayout("mobilenetv3_small_050", 64, ("watermark", "text", "clear"), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(2)
    return SMALL.network().eval()


def state_of(network: Any) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_a_classifier_of_any_layout_gives_the_calibrated_probability_of_its_first_class(
    tmp_path: Path, small: Any
) -> None:
    path = tmp_path / "w.safetensors"
    layout = SMALL.calibrated(2.0, -1.0).calibrated(0.5, 0.25)  # margin - 0.25
    path.write_bytes(picture_head_bytes(layout, Tag.PWATERMARK, state_of(small), {"source": "x"}))
    head = load_picture_head(read_head_file(path), device="cpu")
    squares = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    pixels = ((squares / 255 - SMALL.mean) / SMALL.std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.inference_mode():
        logits = small(torch.from_numpy(pixels)).numpy().astype(np.float64)
    odds = np.exp(logits[:, 0]) / (np.exp(logits[:, 1]) + np.exp(logits[:, 2])) * np.exp(-0.25)
    np.testing.assert_allclose(head.score(squares), odds / (1 + odds), atol=1e-5)
    assert head.side == 64
    assert head.layout == layout


def test_a_detector_converted_without_its_layout_is_laions() -> None:
    assert PictureLayout.from_json({"architecture": "efficientnet_b3"}) == LAION
    assert PictureLayout.from_json(LAION.to_json()) == LAION


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "hf-hub:someone/model"}, "timm has no architecture"),
        ({"architecture": "../model"}, "timm has no architecture"),
        ({"side": 8}, "squares of 8 pixels"),
        ({"side": "x"}, "metadata are damaged"),
        ({"classes": ["watermark"]}, "two or more classes"),
        ({"std": [0.2, 0.0, 0.2]}, "normalisation or calibration"),
        ({"mean": [0.2, 0.1]}, "metadata are damaged"),
        ({"calibration": {"slope": -1, "shift": 0}}, "normalisation or calibration"),
        ({"calibration": {"slope": float("nan"), "shift": 0}}, "normalisation or calibration"),
        ({"calibration": None}, "metadata are damaged"),
        ({"hidden": [8]}, None),
    ],
)
def test_a_damaged_layout_is_refused(changes: dict[str, Any], sentence: str | None) -> None:
    said = SMALL.to_json() | changes
    if sentence is None:
        assert PictureLayout.from_json(said).network().get_parameter("classifier.0.weight").shape[0] == 8
    else:
        with pytest.raises(HeadError, match=sentence):
            PictureLayout.from_json(said)


def test_tensors_that_are_not_the_layouts_are_refused(small: Any) -> None:
    state = state_of(small)
    state["conv_stem.weight"] = np.full_like(state["conv_stem.weight"], np.nan)
    with pytest.raises(HeadError, match="not finite"):
        picture_head_bytes(SMALL, Tag.PWATERMARK, state, {})
    with pytest.raises(HeadError, match="do not fit"):
        picture_head_bytes(LAION, Tag.PWATERMARK, state_of(small), {})


def test_half_precision_tensors_are_read(tmp_path: Path, small: Any) -> None:
    half = {name: tensor.astype(np.float16) for name, tensor in state_of(small).items()}
    path = tmp_path / "w.safetensors"
    path.write_bytes(picture_head_bytes(SMALL, Tag.PWATERMARK, half, {}))
    squares = np.zeros((1, 64, 64, 3), np.uint8)
    assert 0 < load_picture_head(read_head_file(path), "cpu").score(squares)[0] < 1
    assert path.stat().st_size < 1_300_000
