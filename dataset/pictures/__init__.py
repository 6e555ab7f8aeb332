"""Untrusted bytes → a picture, or the outcome that says why there is none.

  headers.py ──▶ metadata.py ──▶ decode.py, colour.py ──▶ prepare.py ──▶ the picture as it is stored
  (format,       (profile,       (pixels as browsers      (resize,
   size)          orientation)    show them)               encode)

open_stored.py decodes a stored picture again, in a decoder process (fork_server.py). jpeg.py is the fast path for JPEGs
in sRGB, without Pillow.
"""
