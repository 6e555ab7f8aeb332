"""The meaning of a release's columns, as the card and croissant.json describe them."""

MEANINGS = {
    "URL": "where the picture was found",
    "TEXT": "its alt text, or the caption of a link list",
    "WIDTH": "of the picture as it was received, in pixels",
    "HEIGHT": "of the picture as it was received, in pixels",
    "LANGUAGE": "of TEXT, as CLD3 names languages; only in the subset multi",
    "similarity": "cosine of the CLIP embeddings of picture and text",
    "hash": "64 bits of murmur3 of URL and TEXT, as LAION computes it; joins to LAION's files",
    "pwatermark": "estimated probability of a watermark; null where no model tagged the pair",
    "punsafe": "estimated probability that the picture is unsafe for work; null where no model tagged the pair",
    "aesthetic": "estimated aesthetic score, about 1 to 10; null where no model tagged the pair",
    "id": "number of the pair; it never changes and is never used for another pair",
    "sha256": "of the picture as it was received, in hex; shows whether the picture has changed since",
    "final_host": "host that sent the picture, after redirects",
    "crawl": "crawl that the pair comes from",
    "fetched": "when the picture was fetched",
    "pdq": "perceptual hash of the picture, 256 bits; null for a flat picture",
    "dhash": "difference hash of the picture, 64 bits",
}


def meaning(column: str) -> str:
    """Return what a column means; those without an entry come from link lists."""
    return MEANINGS.get(column, "column of the link list that the pair comes from")
