"""Generated pictures against a release: which of them repeat a picture that the model was trained on.

    pictures ─▶ embeddings, also mirrored ─▶ nearest rows, by group ─▶ pixels of kept pictures, aligned ─▶ verdict

A verdict is about pixels; embeddings alone give candidates, never copies. Thresholds: Webster, "A Reproducible
Extraction of Training Images from Diffusion Models" (2023), as root mean squares of 256 x 256 RGB in 0 to 1.
"""
