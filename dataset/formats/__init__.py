"""One module for each kind of file that Shoal writes: its schema, its writer, its reader.

Only this package names columns and paths; all others use its readers.
"""
