"""Open files in a folder or an object store, with S3 endpoints, credentials and retries.

Credentials come only from the standard places: AWS_ACCESS_KEY_ID and its companions, ~/.aws and AWS_PROFILE, a web
identity, the machine's role. A URI that contains a secret is refused, because URIs are logged.

The path of a URI is percent-decoded (RFC 3986), so that every key has a URI: `#` and `?` must be written %23 and %3F;
a space may be written as a space. A local path is not decoded.

Source: `pyarrow.fs`. Rejected: `FileSystem.from_uri`, which retries every 0.2 s for 6 s and then gives up; a bucket
that answers SlowDown needs growing pauses, and recovers within a minute. There are two copies of this module, in
dataset/store/ and tracker/storage/, because the two packages do not import each other; a test compares the copies.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

MAX_ATTEMPTS = 10
"""Pauses are drawn from (0, 1), (0, 2), (0, 4) … seconds, up to 20; their sum is 50 s on average."""
CONNECT_TIMEOUT_SECONDS = 10.0
REQUEST_TIMEOUT_SECONDS = 60.0
"""Longest time without a byte. S3 may take a minute to join an upload's parts; the SDK's default is 3 s."""
ENDPOINT_NAMES = ("SHOAL_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
QUERY_NAMES = frozenset({"region", "endpoint_override", "scheme"})

_URI_CHARACTERS = "%:/?#[]@!$&'()*+,;=~"  # and letters, digits, '_', '.', '-': RFC 3986, 2.2 and 2.3
_STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def open_location(location: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system of a local path or a file:, s3://, gs:// or abfs:// URI, and the path in it.

    Raises: ValueError, OSError, pa.ArrowException when the location cannot be opened.
    """
    if "://" not in location:
        try:
            return pa.fs.LocalFileSystem(), str(Path(location).expanduser().absolute())
        except RuntimeError as error:
            raise ValueError("there is no such user") from error
    if location.startswith("s3://"):
        return open_s3(location)
    filesystem, path = pa.fs.FileSystem.from_uri(quote(_STRAY_PERCENT.sub("%25", location), safe=_URI_CHARACTERS))
    return filesystem, str(path)


def open_s3(uri: str, environment: Mapping[str, str] = os.environ) -> tuple[pa.fs.S3FileSystem, str]:
    """Return the file system and the path (bucket/folder) of s3://bucket/folder[?region=…&endpoint_override=…&scheme=…].

    The endpoint (for MinIO, Ceph, R2 and others) is the URI's, or the first variable of ENDPOINT_NAMES that is set.
    AWS_CA_BUNDLE names the certificates to trust there.

    Raises: ValueError when the URI is invalid; the message says what to write instead.
    """
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query))
    if parts.username is not None or parts.password is not None or not query.keys() <= QUERY_NAMES:
        raise ValueError("an s3:// URI may say region, endpoint_override and scheme; put keys into AWS_… variables")
    if not parts.hostname:
        raise ValueError("an s3:// URI begins with its bucket: s3://bucket/folder")
    if parts.fragment:
        raise ValueError("an s3:// URI has no fragment: write a '#' in a key as %23")
    bucket = parts.netloc
    override = query.get("endpoint_override") or next(
        (environment[n] for n in ENDPOINT_NAMES if environment.get(n)), ""
    )
    scheme, separator, endpoint = override.rpartition("://")
    scheme = query.get("scheme") or scheme or "https"
    if scheme not in ("http", "https") or (separator and not endpoint):
        raise ValueError(f"{override!r} is no endpoint: write https://host or http://host:port")
    region = query.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None and not endpoint:
        region = pa.fs.resolve_s3_region(bucket)
    filesystem = pa.fs.S3FileSystem(
        region=region,
        scheme=scheme,
        endpoint_override=endpoint.rstrip("/") or None,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        request_timeout=REQUEST_TIMEOUT_SECONDS,
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        allow_delayed_open=True,  # a file under 10 MB goes in one request instead of three
        tls_ca_file_path=environment.get("AWS_CA_BUNDLE"),
    )
    return filesystem, bucket + unquote(parts.path).rstrip("/")
