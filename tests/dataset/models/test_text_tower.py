"""A text tower in sentence-transformers' layout: the same numbers as computed by hand, and unknown layers are
refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataset.models.clip import load_model
from dataset.models.files import ModelError, add_model, gathered
from dataset.models.text_tower import load_text_tower, text_tower_files
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store

transformers = pytest.importorskip("transformers")

DEMO = Path(__file__).parents[2] / "demo" / "clip"
WEIGHTS, CONFIG = DEMO / "open_clip_model.safetensors", DEMO / "open_clip_config.json"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ein", "roter", "stern", "a", "red", "star"]
CPU = torch.device("cpu")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Write a tiny random DistilBERT as sentence-transformers writes clip-ViT-B-32-multilingual-v1."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path / "published"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "2_Dense").mkdir()
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=24, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=32
    )
    transformer = transformers.DistilBertModel(config)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    torch.save(transformer.state_dict(), folder / "pytorch_model.bin")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    dense = {
        "in_features": 24,
        "out_features": 128,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": torch.randn(128, 24)}, folder / "2_Dense" / "model.safetensors")
    kinds = ["Transformer", "Pooling", "Dense"]
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{k}"} for k in kinds]))
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def laid_out(published: Path, place: Path) -> Path:
    with gathered(WEIGHTS, CONFIG, (), text_tower_files(published)) as folder:
        shutil.copytree(folder, place)
    return place


def by_hand(published: Path, tokens: list[int]) -> Any:
    """Embed one text's tokens, alone and so without padding."""
    config = transformers.DistilBertConfig(**json.loads((published / "config.json").read_text()))
    transformer = transformers.DistilBertModel(config).eval()
    transformer.load_state_dict(torch.load(published / "pytorch_model.bin", weights_only=True))
    with torch.inference_mode():
        states = transformer(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy().astype(np.float64)
    dense = load_file(published / "2_Dense" / "model.safetensors")["linear.weight"].numpy()
    row = dense @ states.mean(axis=0)
    return row / np.linalg.norm(row)


def test_each_text_is_the_mean_of_its_own_tokens_whatever_the_batch(published: Path, tmp_path: Path) -> None:
    tower = load_text_tower(laid_out(published, tmp_path / "model"), CPU)
    rows = tower.embed_texts(["Ein roter Stern", "star", ""])
    expected = [by_hand(published, tokens) for tokens in ([2, 4, 5, 6, 3], [2, 9, 3], [2, 3])]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert tower.embed_texts([]).shape == (0, 128)
    assert np.isfinite(tower.embed_texts(["x " * 5_000])).all()


def test_pictures_keep_their_tower_and_texts_get_the_new_one(published: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with gathered(WEIGHTS, CONFIG, (), text_tower_files(published)) as folder:
        add_model(store, "multi", folder)
    both = load_model(ModelRecipe("multi", "store:models/multi", 0.26), store, "cpu")
    plain = load_model(ModelRecipe("demo", str(DEMO), 0.26), device="cpu")
    np.testing.assert_allclose(both.embed_texts(["star"])[0], by_hand(published, [2, 9, 3]), atol=1e-5)
    assert both.checksums.weights == plain.checksums.weights
    assert both.checksums.config != plain.checksums.config


def test_another_text_tower_is_another_model(published: Path, tmp_path: Path) -> None:
    first = laid_out(published, tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    save_file({"linear.weight": torch.randn(128, 24)}, second / "text_dense.safetensors")
    models = [load_model(ModelRecipe("multi", str(folder), 0.26), device="cpu") for folder in (first, second)]
    assert models[0].checksums.config != models[1].checksums.config


def test_open_clips_own_multilingual_layout_loads_without_a_network(published: Path, tmp_path: Path) -> None:
    import open_clip

    model = json.loads(CONFIG.read_text())
    model["model_cfg"]["text_cfg"] = {
        "hf_model_name": "xlm-roberta-base",
        "hf_tokenizer_name": "xlm-roberta-base",
        "hf_pooler_type": "mean_pooler",
        "context_length": 16,
    }
    config = transformers.XLMRobertaConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    files = tmp_path / "files"
    files.mkdir()
    (files / "config.json").write_text(json.dumps(config.to_dict()))
    (files / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}'
    )
    shutil.copyfile(published / "tokenizer.json", files / "tokenizer.json")
    (files / "model.json").write_text(json.dumps(model))
    local = {"hf_model_name": str(files), "hf_model_pretrained": False}
    whole = model["model_cfg"] | {"text_cfg": model["model_cfg"]["text_cfg"] | local}
    save_file(open_clip.CustomTextCLIP(**whole).state_dict(), files / "weights.safetensors")
    tokenizer = [files / name for name in ("config.json", "tokenizer_config.json", "tokenizer.json")]
    store = Store.open(str(tmp_path / "store"))
    with gathered(files / "weights.safetensors", files / "model.json", tokenizer) as folder:
        add_model(store, "xlm", folder)
    rows = load_model(ModelRecipe("xlm", "store:models/xlm", 0.26), store, "cpu").embed_texts(["ein roter stern", "a"])
    assert rows.shape == (2, 128)
    assert not np.allclose(rows[0], rows[1])


# --- what is refused


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("modules.json", "Dense", "Normalize", "only Transformer"),
        ("1_Pooling/config.json", "true", "false", "only Transformer"),
        ("config.json", '"distilbert"', '"gpt2"', "only distilbert"),
        ("config.json", '"dim": 24', '"dim": 48', "Cannot load"),
        ("config.json", '"n_layers": 2', '"n_layers": 3', "do not fit: missing"),
        ("config.json", '"n_layers": 2', '"n_layers": 1', "unknown"),
        ("config.json", "{", '{"auto_map": {"AutoModel": "evil.Model"}, ', "only distilbert"),
        ("2_Dense/config.json", "linear.Identity", "activation.Tanh", "only layers without one are supported"),
        ("tokenizer.json", "{", "", "Cannot load"),
        ("config.json", "{", "", "Cannot read"),
    ],
)
def test_what_it_does_not_know_is_refused(
    published: Path, tmp_path: Path, file: str, old: str, new: str, sentence: str
) -> None:
    text = (published / file).read_text()
    assert old in text
    (published / file).write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=sentence):
        load_text_tower(laid_out(published, tmp_path / "model"), CPU)


class Trap:
    """Unpickling one runs code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_runs_code_does_not_run(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"linear.weight": Trap()}, published / "pytorch_model.bin")
    with pytest.raises(ModelError, match="without running code"):
        load_text_tower(laid_out(published, tmp_path / "model"), CPU)
    assert not Path("sprung").exists()


def test_towers_of_two_lengths_are_refused(published: Path, tmp_path: Path) -> None:
    folder = laid_out(published, tmp_path / "model")
    dense = json.loads((folder / "text_dense.json").read_text()) | {"out_features": 64}
    (folder / "text_dense.json").unlink()
    (folder / "text_dense.json").write_text(json.dumps(dense))
    save_file({"linear.weight": torch.randn(64, 24)}, folder / "text_dense.safetensors")
    with pytest.raises(ModelError, match="64 dimensions"):
        load_model(ModelRecipe("multi", str(folder), 0.26), device="cpu")
