"""Bytes of a stranger → a picture, or the outcome that says why not.

headers.py ──▶ metadata.py ──▶ decode.py, colour.py ──▶ prepare.py ──▶ the picture as it is stored
(format,       (profile,       (pixels as browsers      (resize,
 size)          orientation)    show them)               encode)

open_stored.py shows a stored picture again, in a decoder process (fork_server.py).
jpeg.py is the short way of a JPEG in sRGB, without Pillow.
"""
