"""Where all files live: a folder, or a bucket through `pyarrow.fs`.

Whole files only: a file is there complete, or not at all.
"""
