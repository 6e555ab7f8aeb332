"""The models that score pairs: their files, their two towers, and the pipeline that feeds them; and the computations of
other stages that are fastest on a GPU.

inputs.py, decoders.py ─▶ pipeline.py ─▶ towers.py
files.py ─▶ clip.py ─────────────────────┘
kmeans.py      clusters of rows, for the index
block_join.py  pairs of rows above a cosine, for near-duplicates
"""

import dataset.trio_shim  # noqa: F401 - huggingface_hub, which open_clip and timm import, imports trio
