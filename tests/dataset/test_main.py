"""The command `dataset`: data on stdout; an error is one sentence and an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.main import main
from dataset.recipe.recipe import Recipe
from tracker.settings import Settings

DEMO = Path(__file__).parents[1] / "demo" / "clip"
ADD = ["models", "add", "demo", "--config", str(DEMO / "open_clip_config.json"), "--weights"]


def in_this_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that imports torch, which a process of its own would do again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dataset", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), said.out, said.err)


def dataset(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataset.main", *arguments], capture_output=True, text=True, check=False
    )


def test_recipe_prints_the_defaults() -> None:
    assert json.loads(dataset("recipe").stdout) == Recipe().to_json()


def test_recipe_fills_a_file_in_and_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"image": {"size": 384}}')
    out = tmp_path / "full.json"
    ran = dataset("recipe", str(tmp_path / "recipe.json"), "--set", "models.en.threshold=0.3", "--out", str(out))
    full = json.loads(out.read_text())
    assert (ran.returncode, ran.stdout) == (0, "")
    assert (full["image"]["size"], full["models"]["en"]["threshold"]) == (384, 0.3)


def test_recipe_takes_img2datasets_flags() -> None:
    flags = "--resize-mode border --image-size 512 --encode-format webp --encode-quality 80 --min-image-size 64"
    ran = dataset("recipe", *flags.split(), "--max-aspect-ratio", "3", "--set", "filter=false")
    recipe = Recipe.from_json(json.loads(ran.stdout))
    assert (recipe.image.resize_mode, recipe.image.size, recipe.image.encode_format) == ("border", 512, "webp")
    assert (recipe.image.encode_quality, recipe.image.min_image_size, recipe.image.max_aspect_ratio) == (80, 64, 3.0)
    assert not recipe.filter


def test_models_add_prints_the_entry_of_a_recipe(tmp_path: Path) -> None:
    ran = dataset(*ADD, str(DEMO / "open_clip_model.safetensors"), "--store", str(tmp_path / "a store"))
    entry = json.loads(ran.stdout)
    assert entry["pretrained"] == "store:models/demo"
    assert Recipe.from_json({"models": {"en": entry}}).models.en.sha256 == entry["sha256"]
    assert (tmp_path / "a store" / "models" / "demo" / "checksums.json").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipe", "/no/such/recipe.json"),
        ("recipe", "--set", "models.en.threshold=much"),
        ("recipe", "--set", "version.x=1", "--set", "version=1", "--set", "version.x=2"),
        ("recipe", "--out", "/no/such/folder/recipe.json"),
        ("report", "--store", "/no/such/store"),
        (*ADD, str(DEMO / "open_clip_model.safetensors"), "--store", "/dev/null/store"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_1(arguments: tuple[str, ...]) -> None:
    ran = dataset(*arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ran.stderr


def test_weights_that_do_not_exist_get_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    ran = in_this_process(capsys, *ADD, "/no/such/weights.safetensors", "--store", "/tmp")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert len(ran.stderr.strip().splitlines()) == 1


def test_without_a_store_it_is_the_one_that_tracker_and_worker_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SHOAL_STORE", raising=False)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    assert in_this_process(capsys, *ADD, str(DEMO / "open_clip_model.safetensors")).returncode == 0
    assert (Path(Settings.from_environment().store) / "models" / "demo" / "checksums.json").is_file()


def test_what_runs_no_model_starts_without_torch() -> None:
    program = (
        "import sys, dataset.main, dataset.formats.parts; "
        "sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_arguments_it_shows_its_commands_in_groups_the_most_used_first() -> None:
    ran = dataset()
    places = [ran.stdout.index(word) for word in ("Runs", " recipe ", "Releases", " publish ", "Models", " calibrate ")]
    assert places == sorted(places)
    assert "Commands" not in ran.stdout  # every command belongs to a group


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_completes_in_a_shell(shell: str) -> None:
    program = [sys.executable, "-c", "from dataset.main import app; app(prog_name='dataset')"]
    complete = {"bash": ("dataset tr", "1"), "zsh": ("dataset tr", None), "fish": ("dataset tr", None)}[shell]
    words, place = complete
    environment = os.environ | {"_DATASET_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words}
    environment |= {"COMP_WORDS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment |= {"COMP_CWORD": place} if place else {}
    ran = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert "train-head" in ran.stdout


def test_a_wrong_command_line_is_exit_code_2() -> None:
    assert dataset("recipe", "--colour").returncode == 2
