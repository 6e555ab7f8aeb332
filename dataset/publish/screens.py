"""Checks of a pair's URL and caption: pairs that match are dropped or counted.

All checks are regular expressions for RE2, applied to whole columns. A URL with a credential lets every reader act as
its owner, and a URL with a signature expires within hours; captions may contain a person's address or phone number.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

EMAIL = 1
PHONE = 2

# Sources: the parameters of signatures of S3, Google Cloud Storage, CloudFront, Azure SAS, Alibaba OSS and Tencent COS;
# common parameters for tokens, passwords and session ids; Google's API keys, which begin with AIza.
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
# International numbers with +, North American numbers in their usual notation, and digits after a word such as tel.
_PHONE = (
    r"\+\d{1,3}(?:[ .()-]{0,2}\d){7,13}\b"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}\b"
    r"|\b\d{3}[.-]\d{3}[.-]\d{4}\b"
    r"|(?i:\b(?:tel|phone|mobile|fax|whatsapp)[.: ]{1,3}\+?(?:[ .()/-]{0,2}\d){7,15}\b)"
)


def has_credentials(urls: pa.ChunkedArray) -> Mask:
    """Return which URLs contain user info, a token, a session or a signature, (N,) bool."""
    found = _candidates(urls, r"[?;@#]")
    found[found] = _matches(urls.filter(pa.array(found)), _CREDENTIALS)
    return found


def find_contacts(texts: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return EMAIL, PHONE, both or 0 for each caption, (N,) uint8."""
    candidates = _candidates(texts, r"@|\d{3}")
    some = texts.filter(pa.array(candidates))
    found = np.zeros(len(texts), np.uint8)
    found[candidates] = _matches(some, _EMAIL) * np.uint8(EMAIL) + _matches(some, _PHONE) * np.uint8(PHONE)
    return found


def _candidates(texts: pa.ChunkedArray, pattern: str) -> Mask:
    """Return which rows match a cheap pattern, so that an expensive one is tried only on these."""
    return _matches(texts, pattern).copy()


def _matches(texts: pa.ChunkedArray, pattern: str) -> Mask:
    found: Mask = pc.match_substring_regex(texts, pattern).to_numpy().astype(bool)
    return found
