"""The stage extract: WAT file → pack."""
