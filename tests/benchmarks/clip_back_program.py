"""clip-retrieval's back end, unchanged, in an environment of its own; all_clip, which downloads models, is replaced.

    python clip_back_program.py INDICES.json PORT [--arrow]

The model is open_clip's ViT-B/32 with random weights, or nothing if open_clip is not there (queries by vector need
none). Aesthetic vectors and mclip, which are downloads too, are off.
"""

import argparse
import runpy
import sys
import types
from pathlib import Path
from typing import Any


def load_clip(*_: object, **__: object) -> tuple[Any, Any, Any]:
    shim = Path(__file__).resolve().parents[2] / "dataset" / "models" / "torchvision_shim.py"
    try:
        runpy.run_path(str(shim))  # before open_clip, which imports torchvision
        import open_clip
        import torch
    except ImportError:
        return None, None, None
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    return model.eval(), preprocess, open_clip.get_tokenizer("ViT-B-32")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("indices")
    parser.add_argument("port", type=int)
    parser.add_argument("--arrow", action="store_true")
    asked = parser.parse_args()
    stub = types.ModuleType("all_clip")
    stub.load_clip = load_clip  # type: ignore[attr-defined]
    sys.modules["all_clip"] = stub
    package = types.ModuleType("clip_retrieval")  # its own __init__ imports everything, img2dataset included
    package.__path__ = [str(Path(place) / "clip_retrieval") for place in sys.path if place]
    sys.modules["clip_retrieval"] = package
    import flask
    from clip_retrieval import clip_back  # type: ignore[import-not-found]

    run = flask.Flask.run

    def run_on_loopback(app: flask.Flask, host: str, port: int, debug: bool) -> None:  # clip_back listens everywhere
        run(app, host="127.0.0.1", port=port, debug=debug)

    flask.Flask.run = run_on_loopback  # type: ignore[method-assign,assignment]
    clip_back.clip_back(
        indices_paths=asked.indices,
        port=asked.port,
        enable_mclip_option=False,
        provide_aesthetic_embeddings=False,
        use_jit=False,
        use_arrow=asked.arrow,
        enable_faiss_memory_mapping=True,
    )


if __name__ == "__main__":
    main()
