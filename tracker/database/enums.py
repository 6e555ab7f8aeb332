"""The table of queues, and the values of the schema's other enums."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. Its name is also the class of its workers, whose login is `shoal_<name>`."""

    name: str
    folder: str
    """The folder of its outputs, below the folder of their run."""
    payload_keys: tuple[str, ...] = ()
    """Keys of a job's payload; their values are the names of the folders below `folder`."""

    @property
    def login(self) -> str:
        return login_of(self.name)


def login_of(queue: str) -> str:
    """Return the login of a queue's workers."""
    return f"shoal_{queue}"


# In the order of the enum, which is the order of the stages. The output of extract, ingest and download becomes jobs of
# the next queue; jobs of the queues after filter are seeded by the admin (see tracker/functions/is_idle.sql).
QUEUE_TABLE = (
    Queue("extract", "packs"),
    Queue("ingest", "packs"),
    Queue("download", "shards"),
    Queue("filter", "parts"),
    Queue("embed", "embeddings", ("embedding",)),
    Queue("index", "index"),
    Queue("dedup", "duplicates"),
    Queue("tag", "tags"),
)
QUEUES = tuple(queue.name for queue in QUEUE_TABLE)
LOGINS = tuple(queue.login for queue in QUEUE_TABLE)
JOB_STATES = ("ready", "leased", "done", "dead", "discarded")
WORKER_STATES = ("active", "draining", "gone")
LEASE_ENDINGS = ("completed", "released", "failed", "taken_over", "evicted")
OUTPUT_KINDS = ("pack", "shard", "part", "embeddings", "index", "dedup", "tag")
SUBSETS = ("en", "multi", "nolang")
# The outcomes of a link, final ones and passing ones alike; `dataset.pictures.outcomes` says what each means.
OUTCOMES = (
    "success",
    "not_found",
    "gone",
    "http_error",
    "server_error",
    "rate_limited",
    "forbidden",
    "dns_error",
    "connect_error",
    "timeout",
    "tls_error",
    "bad_response",
    "truncated",
    "too_large",
    "too_small",
    "refused_address",
    "bad_url",
    "bad_redirect",
    "redirect_loop",
    "not_an_image",
    "undecodable",
    "too_many_pixels",
    "unsupported_format",
    "opted_out",
    "blocked",
    "side_too_short",
    "aspect_too_large",
    "changed",
)
# It is unknown whether links with these outcomes are alive. `dataset.pictures.outcomes` has the same set; a test
# compares the two.
NOT_WANTED = frozenset(
    {"blocked", "opted_out", "too_large", "too_many_pixels", "too_small", "side_too_short", "aspect_too_large"}
)
# The accounts of the ledger. The law of conservation: in = pool + again + leased + finished. `filtered` counts samples
# by the filter's verdict; jobs, rows_in, rows_out and milliseconds count the finished work of each queue and the time
# it took. `packed` counts candidates in packs that wait for ingest; `stored` counts the bytes and samples in the
# shards' tars now, and the bytes ever written (`written`); `bloom` counts, in thousandths, the links that the filter is
# expected to have dropped wrongly.
ACCOUNTS = (
    "in",
    "pool",
    "again",
    "leased",
    "finished",
    "filtered",
    "jobs",
    "rows_in",
    "rows_out",
    "milliseconds",
    "packed",
    "stored",
    "bloom",
)
