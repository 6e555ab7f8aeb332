"""The models that score pairs: their files, their two towers, and the pipeline that feeds them.

inputs.py, decoders.py ─▶ pipeline.py ─▶ towers.py
files.py ─▶ clip.py ─────────────────────┘
"""
