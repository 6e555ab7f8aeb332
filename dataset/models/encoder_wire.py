"""The messages between the search server and its encoder process, over a socket pair.

    request   number, TEXT or PICTURE, size; then the text in UTF-8, or the picture as received
    answer    number, VECTOR, UNDECODABLE or FAILED, size; then D float32 values, or a sentence in UTF-8

The first answer has the number 0: VECTOR with the model's JSON, or FAILED with the reason why it cannot be loaded.
"""

import struct

FRAME = struct.Struct("<QcI")
TEXT, PICTURE = b"T", b"P"
VECTOR, UNDECODABLE, FAILED = b"V", b"U", b"F"
MAX_PAYLOAD_BYTES = 32 << 20
