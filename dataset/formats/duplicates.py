"""The side table `duplicates`: groups of near-duplicates, each with the row that represents it.

releases/NAME/duplicates/{generation}-v1/…    a row for each row of the release that has an embedding
releases/NAME/duplicates/report.json          how they were found, and the results of checks
releases/NAME/duplicates/plant.json           how many edited copies of its pictures a search finds, if measured
"""

import pyarrow as pa

NAME = "duplicates"
REPORT = f"{NAME}/report.json"
PLANT = f"{NAME}/plant.json"
KINDS = ("self", "bytes", "exact", "near", "pdq")
"""How a row belongs to its group: it is the representative; its picture has the same bytes; its embedding is equal; it
is near; it is less near, but the pictures' PDQ hashes agree."""
COLUMNS = pa.schema(
    [
        ("representative", pa.int64()),
        ("group_size", pa.int64()),
        ("cosine", pa.float32()),
        ("kind", pa.string()),
        ("top_caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("similarities", pa.list_(pa.float32())),
        ("hosts", pa.int64()),
        ("weight_inverse", pa.float32()),
        ("weight_inverse_sqrt", pa.float32()),
    ]
)
