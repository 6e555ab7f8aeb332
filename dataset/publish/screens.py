"""What keeps a pair out of a release, or is counted, by its URL and caption alone.

All are regular expressions for RE2, over whole columns. A URL that carries a credential or a signature lets everybody
act as somebody, or dies within hours; captions may name a person's address or telephone.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

EMAIL = 1
PHONE = 2

# Sources: the names that S3, Google Cloud Storage, CloudFront, Azure SAS, Alibaba OSS and Tencent COS sign with; those
# under which tokens, passwords and session ids are passed on; Google's API keys begin with AIza.
_SECRET_PARAMETERS = (
    "x-amz-(?:signature|credential|security-token)", "awsaccesskeyid", "x-goog-(?:signature|credential)",
    "googleaccessid", "key-pair-id", "ossaccesskeyid", "x-oss-(?:signature|credential)", "q-signature", "sig",
    "signature", "hmac", "oauth_[a-z_]+", "jwt", "bearer", "auth(?:orization)?", "auth[-_.]?(?:key|code|sig|signature)",
    "(?:(?:access|auth|id|refresh|session|security|user|login|bearer|api|app)[-_.]?)?token", "passw(?:or)?d", "pwd",
    "(?:api|app|access|auth|secret|private)[-_.]?key(?:[-_.]?id)?", "(?:(?:client|app|api|consumer)[-_.]?)?secret",
    "(?:php|j|asp[.]net_)?sess(?:ion)?[-_.]?id",
)  # fmt: skip
_CREDENTIALS = (
    r"(?i)^[a-z]+://[^/?#]*@"
    rf"|[?&;#](?:{'|'.join(_SECRET_PARAMETERS)})="
    r"|[?&]key=AIza[0-9A-Za-z_-]{30}"
)
_EMAIL = r"(?i)[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,24}\b"
# International numbers with their +, North American ones as they are written, and digits behind a word that says so.
_PHONE = (
    r"\+\d{1,3}(?:[ .()-]{0,2}\d){7,13}\b"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}\b"
    r"|\b\d{3}[.-]\d{3}[.-]\d{4}\b"
    r"|(?i:\b(?:tel|phone|mobile|fax|whatsapp)[.: ]{1,3}\+?(?:[ .()/-]{0,2}\d){7,15}\b)"
)


def has_credentials(urls: pa.ChunkedArray) -> Mask:
    """Return which URLs carry user info, a token, a session or a signature -> (N,) bool."""
    found = _candidates(urls, r"[?;@#]")
    found[found] = _matches(urls.filter(pa.array(found)), _CREDENTIALS)
    return found


def find_contacts(texts: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return EMAIL, PHONE, both or 0 for each caption -> (N,) uint8."""
    candidates = _candidates(texts, r"@|\d{3}")
    some = texts.filter(pa.array(candidates))
    found = np.zeros(len(texts), np.uint8)
    found[candidates] = _matches(some, _EMAIL) * np.uint8(EMAIL) + _matches(some, _PHONE) * np.uint8(PHONE)
    return found


def _candidates(texts: pa.ChunkedArray, pattern: str) -> Mask:
    """Return which rows a cheaper pattern admits, before an expensive one is tried."""
    return _matches(texts, pattern).copy()


def _matches(texts: pa.ChunkedArray, pattern: str) -> Mask:
    found: Mask = pc.match_substring_regex(texts, pattern).to_numpy().astype(bool)
    return found
