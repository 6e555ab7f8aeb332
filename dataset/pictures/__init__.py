"""Bytes of a stranger → a picture, or the outcome that says why not.

headers.py ──▶ prepare.py ──▶ the picture as it is stored
(format,       (decode,
 size)          resize)
"""
