"""What the search server and `worker fetcher` say to each other over a Unix socket; one request per connection.

    request   size, then JSON: {"url": …}
    answer    sizes of the JSON and of the picture, then both: {"outcome": …, "reason": …}

Both ends read at most the sizes given here. The outcome is one of `dataset.pictures.outcomes`; with `success` the
picture follows, within the bounds of `dataset.search.picture_bounds`.
"""

import struct

REQUEST = struct.Struct(">I")
ANSWER = struct.Struct(">II")

MAX_REQUEST_BYTES = 32 << 10
MAX_HEAD_BYTES = 4 << 10

MAX_PICTURE_BYTES = 20_000_000
"""As download accepts."""

ANSWER_SECONDS = 30.0
"""Limit for one picture, redirects and waiting for other requests included."""
