"""Trains the demo's watermark detector: `python -m tests.demo.train_watermark` writes tests/demo/watermark/.

A classifier of timm with 0.4 million parameters, trained by the code of `dataset train-classifier` on pictures that
`tests.demo.marked_pictures` draws, in one thread, so that the file does not depend on the number of cores.
`python -m tests.demo.measure_watermark` then measures it and writes its card.

Rejected: depthwise convolutions (mobilenetv3_small_050, lcnet_035), which had learnt next to nothing after as many
steps; grounds with outlines and strong colours, with which the loss falls half as fast.
"""

import os

import numpy as np
import torch

from dataset.recipe.tags import Tag
from dataset.tags.picture_heads import PictureLayout
from dataset.tags.picture_training import LabelledPictures, PictureSchedule, about_training, train_classifier
from tests.demo.marked_pictures import SIDE, draw_training
from tests.demo.measure_watermark import DETECTOR, PREVALENCE

PICTURES, VALIDATION, SEED = 14_000, 1_600, 30_000
SCHEDULE = PictureSchedule(epochs=10, batch_pictures=32, learning_rate=4e-3)
LAYOUT = PictureLayout("test_resnet", SIDE, ("watermark", "clear"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def main() -> None:
    torch.set_num_threads(1)
    drawn = draw_training(PICTURES, SEED, processes=os.cpu_count() or 1)
    rows = np.arange(PICTURES)
    trained = train_classifier(
        LabelledPictures(drawn.squares, drawn.labels, np.ones(PICTURES)),
        rows[:-VALIDATION],
        rows[-VALIDATION:],
        LAYOUT,
        SCHEDULE,
        PREVALENCE,
        device="cpu",
        on_epoch=lambda epoch, loss: print(f"epoch {epoch}  validation loss {loss:.4f}", flush=True),
    )
    counts = {"training": PICTURES - VALIDATION, "validation": VALIDATION}
    DETECTOR.parent.mkdir(exist_ok=True)
    DETECTOR.write_bytes(trained.to_bytes(Tag.PWATERMARK, about_training(SCHEDULE, trained.losses, counts, PREVALENCE)))


if __name__ == "__main__":
    main()
