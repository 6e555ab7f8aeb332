"""What codecs raise for damaged files; of each it means that this picture cannot be decoded."""

import struct
import zlib

from PIL import Image, ImageCms

CODEC_FAULTS = (
    OSError,  # also what Pillow calls truncated, and UnidentifiedImageError
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    Warning,  # where the interpreter was told to make errors of them
)
"""What Pillow was seen to raise; its modules document no list."""
