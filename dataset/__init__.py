"""The data: WAT parsing, languages, pictures, shards, models, parts and releases. Nothing here connects to the
database.
"""
