"""The exceptions that codecs raise for damaged files: the picture counts as undecodable."""

import struct
import zlib

from PIL import Image, ImageCms

CODEC_FAULTS = (
    OSError,  # also Pillow's errors for truncated and unidentified files
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
    Warning,  # if warnings are turned into errors
)
"""Exceptions that Pillow was seen to raise; its documentation has no list."""
