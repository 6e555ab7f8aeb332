"""The 1,000 rows on which clip_back's answers were recorded; made of integers alone, so every numpy makes the same."""

import numpy as np
import numpy.typing as npt

ROWS, DIMENSIONS = 1_000, 32


def vectors(modality: str) -> npt.NDArray[np.float32]:
    """Return unit rows, (ROWS, DIMENSIONS) float32; every tenth row nearly repeats an earlier one, partly in chains."""
    state = np.arange(ROWS * DIMENSIONS, dtype=np.uint64) + np.uint64(1 if modality == "image" else 10**6)
    for shift in (33, 29, 32):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(0xFF51AFD7ED558CCD)
    rows = ((state >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).reshape(ROWS, DIMENSIONS)
    for at in range(10, ROWS, 10):
        rows[at] = 0.85 * rows[at - 10 if at % 40 else at - 7] + 0.15 * rows[at]
    found: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def queries(modality: str) -> npt.NDArray[np.float32]:
    """Return four unit queries near rows, (4, DIMENSIONS) float32."""
    rows = vectors(modality)
    mixed = rows[[20, 123, 500, 997]] + 0.3 * rows[[600, 601, 602, 603]]
    found: npt.NDArray[np.float32] = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return found


def table() -> list[dict[str, object]]:
    """Return the rows' metadata under clip-retrieval's names."""
    return [
        {"url": f"https://example.org/{n}.jpg", "caption": f"a picture, number {n} — größer", "NSFW": _word(n)}
        for n in range(ROWS)
    ]


def _word(number: int) -> str | float:
    return "UNLIKELY" if number % 3 else float("nan")


def requests() -> list[dict[str, object]]:
    """Return the bodies of requests to /knn-service."""
    image, text = queries("image").tolist(), queries("text").tolist()
    common = {"indice_name": "golden", "modality": "image"}
    nothing = {"text": None, "image": None, "image_url": None, "use_mclip": False}
    return [
        {**common, "embedding_input": image[0], "num_images": 10},
        {**common, **nothing, "embedding_input": image[1], "num_images": 3, "num_result_ids": 12},
        {**common, "text": "", "embedding_input": image[2], "num_images": 20, "deduplicate": True},
        {**common, "embedding_input": image[0], "num_images": 5, "num_result_ids": 40, "deduplicate": True},
        {**common, "embedding_input": [3 * x for x in image[3]], "num_images": 4, "aesthetic_score": "",
         "aesthetic_weight": ""},
        {**common, "modality": "text", "embedding_input": text[0], "num_images": 4},
        {**common, "indice_name": None, "embedding_input": image[1], "num_images": 2, "use_safety_model": True,
         "use_violence_detector": True, "aesthetic_score": "9", "aesthetic_weight": 0.5},
        {**common, "embedding_input": image[2], "num_images": 2, "num_result_ids": 1_200},
    ]  # fmt: skip


METADATA_IDS = [5, 3, 999, 3]
