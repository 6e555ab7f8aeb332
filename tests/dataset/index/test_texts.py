"""Frames of texts: written, read, and blanked without a change of their length."""

import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.formats.index_files import FRAME_ROWS
from dataset.index.texts import Frame, FrameWriter, blanked, decompress, unpack

TEXTS = st.one_of(st.none(), st.text(max_size=60))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=2 * FRAME_ROWS + 3), st.randoms(use_true_random=False))
def test_texts_come_back_and_blanked_rows_are_gone(
    rows: list[tuple[str | None, str | None]], draw: random.Random
) -> None:
    file = io.BytesIO()
    writer = FrameWriter(file, 2)
    for start in range(0, len(rows), 50):
        writer.write([list(column) for column in zip(*rows[start : start + 50], strict=True)])
    offsets = writer.finish().tolist()
    data = file.getvalue()
    assert offsets[-1] == len(data)
    expected = [tuple(text and text.encode(errors="replace").decode() for text in row) for row in rows]
    for at in range(len(offsets) - 1):
        frame = data[offsets[at] : offsets[at + 1]]
        some = expected[at * FRAME_ROWS : (at + 1) * FRAME_ROWS]
        content = decompress(frame)
        assert list(zip(*unpack(content, 2), strict=True)) == some
        assert [tuple(Frame(content, 2).row(row)) for row in range(len(some))] == some
        gone = draw.sample(range(len(some)), draw.randint(1, len(some)))
        shorter = blanked(frame, 2, gone)
        assert len(shorter) == len(frame)
        assert list(zip(*unpack(decompress(shorter), 2), strict=True)) == [
            (None, None) if row in gone else texts for row, texts in enumerate(some)
        ]
