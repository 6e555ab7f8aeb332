"""Loading a model: what is refused, and what the demo's own model must be able to do."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dataset.models.clip import ClipModel, load_model
from dataset.models.files import ModelError, add_model, gathered
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store
from tests.demo.pictures import LANGUAGES, caption, mismatched_scene, random_scene, render

DEMO = Path(__file__).parents[2] / "demo" / "clip"
WEIGHTS, CONFIG = DEMO / "open_clip_model.safetensors", DEMO / "open_clip_config.json"
DEMO_SPEC = ModelRecipe("demo", str(DEMO), 0.28)


@pytest.fixture(scope="module")
def demo() -> ClipModel:
    return load_model(DEMO_SPEC, device="cpu")


def folder_with(place: Path, *, config: Path = CONFIG, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Make a model's folder, its weights changed."""
    place.mkdir()
    (place / CONFIG.name).write_text(config.read_text(encoding="utf-8"))
    save_file(weights if weights is not None else load_file(WEIGHTS), place / WEIGHTS.name)
    return place


# --- what is refused


@pytest.mark.parametrize(
    ("model", "pretrained", "sentence"),
    [
        ("ViT-B-32", "openai", "name the model ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "its tags in open_clip are"),
        ("ViT-B-23", "openai", "did you mean"),
        ("ViT-B-32", "/no/such/file.safetensors", "not a file, a folder or a tag"),
        ("demo", "store:models/demo", "needs a store"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_its_remedy(model: str, pretrained: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        load_model(ModelRecipe(model, pretrained, 0.28), device="cpu")


def test_a_missing_weight_is_never_made_up(tmp_path: Path) -> None:
    weights = load_file(WEIGHTS)
    del weights["text_projection"]
    folder = folder_with(tmp_path / "model", weights=weights)
    with pytest.raises(ModelError, match="text_projection"):
        load_model(ModelRecipe("demo", str(folder), 0.28), device="cpu")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG.name).write_text(CONFIG.read_text())
    with pytest.raises(ModelError, match="0 files of weights"):
        load_model(ModelRecipe("demo", str(tmp_path), 0.28), device="cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = load_file(WEIGHTS)
    weights["text_projection"][0, 0] = float("nan")
    folder = folder_with(tmp_path / "model", weights=weights)
    with pytest.raises(ModelError, match="not finite"):
        load_model(ModelRecipe("demo", str(folder), 0.28), device="cpu")


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0garbage!", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / CONFIG.name).write_text(CONFIG.read_text())
    (tmp_path / WEIGHTS.name).write_bytes(damage)
    with pytest.raises(ModelError, match="Cannot load"):
        load_model(ModelRecipe("demo", str(tmp_path), 0.28), device="cpu")


class Trap:
    """Unpickling one runs code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG.name).write_text(CONFIG.read_text())
    torch.save({"text_projection": Trap()}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="Cannot load"):
        load_model(ModelRecipe("demo", str(tmp_path), 0.28), device="cpu")
    assert not Path("sprung").exists()


def test_torchscript_is_refused_by_its_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(ModelError, match="TorchScript"):
        load_model(ModelRecipe("ViT-B-32-quickgelu", str(tmp_path / "ViT-B-32.pt"), 0.28), device="cpu")


# --- what tells models apart


def test_another_preprocessing_is_another_model(tmp_path: Path, demo: ClipModel) -> None:
    config = json.loads(CONFIG.read_text())
    config["preprocess_cfg"]["resize_mode"] = "shortest"
    changed = tmp_path / "config.json"
    changed.write_text(json.dumps(config))
    other = load_model(ModelRecipe("demo", str(folder_with(tmp_path / "model", config=changed)), 0.28), device="cpu")
    assert other.checksums.config != demo.checksums.config


def test_a_model_from_the_store_is_the_one_that_was_put_there(tmp_path: Path, demo: ClipModel) -> None:
    store = Store.open(str(tmp_path))
    with gathered(WEIGHTS, CONFIG) as folder:
        add_model(store, "demo", folder)
        add_model(store, "demo", folder)  # again changes nothing
    assert load_model(ModelRecipe("demo", "store:models/demo", 0.28), store, "cpu").checksums == demo.checksums


def test_a_state_dict_by_torch_save_gives_the_same_embeddings(tmp_path: Path, demo: ClipModel) -> None:
    torch.save({"state_dict": load_file(WEIGHTS)}, tmp_path / "weights.pt")
    with gathered(tmp_path / "weights.pt", CONFIG) as folder:
        other = load_model(ModelRecipe("demo", str(folder), 0.28), device="cpu")
    assert np.array_equal(other.embed_texts(["a red star"]), demo.embed_texts(["a red star"]))
    assert other.sha256 != demo.sha256


def test_a_name_in_the_store_never_changes_its_content(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    weights = load_file(WEIGHTS)
    with gathered(WEIGHTS, CONFIG) as folder:
        add_model(store, "demo", folder)
    weights["logit_scale"] += 1
    with pytest.raises(ModelError, match="choose a new name"):
        add_model(store, "demo", folder_with(tmp_path / "other", weights=weights))


def test_a_file_that_was_changed_in_the_store_is_refused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with gathered(WEIGHTS, CONFIG) as folder:
        add_model(store, "demo", folder)
    store.put("models/demo/open_clip_config.json", b"{}")
    with pytest.raises(ModelError, match="has been changed"):
        load_model(ModelRecipe("demo", "store:models/demo", 0.28), store, "cpu")


# --- embeddings


@pytest.mark.parametrize(
    "text", ["", " ", "🦈" * 3_000, "x" * 10_000, "漢" * 10_000, "<|endoftext|>", "ein roter Kreis", "\u202e\u0301"]
)
def test_any_text_has_a_finite_unit_embedding(demo: ClipModel, text: str) -> None:
    row = demo.embed_texts([text])
    assert row.shape == (1, demo.dimensions)
    assert row.dtype.name == "float32"
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3_000), (333, 77)])
def test_any_picture_has_a_finite_unit_embedding(demo: ClipModel, mode: str, size: tuple[int, int]) -> None:
    row = demo.embed_images([Image.new(mode, size)])
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_nothing_has_no_embeddings(demo: ClipModel) -> None:
    assert demo.embed_images([]).shape == demo.embed_texts([]).shape == (0, demo.dimensions)


@pytest.mark.parametrize("size", [(120, 160), (256, 256), (900, 600), (2_400, 1_600)])
def test_the_demos_model_distinguishes_matched_from_mismatched_at_every_size(
    demo: ClipModel, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(size)
    scenes = [random_scene(rng) for _ in range(12 if size[0] > 900 else 60)]
    images = demo.embed_images([render(scene, size, rng) for scene in scenes])
    for language in LANGUAGES:
        right = demo.embed_texts([caption(scene, language) for scene in scenes])
        wrong = demo.embed_texts([caption(mismatched_scene(scene, rng), language, 1) for scene in scenes])
        assert np.mean((images * right).sum(1) >= 0.28) >= 0.95
        assert np.mean((images * wrong).sum(1) < 0.26) >= 0.9
