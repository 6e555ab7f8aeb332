"""Where all files are: a folder, or a bucket through `pyarrow.fs`.

A file is stored whole or not at all.
"""
