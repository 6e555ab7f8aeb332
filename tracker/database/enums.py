"""The closed sets of words that the schema's enums hold, for those who speak them without needing its tables."""

QUEUES = ("extract", "ingest", "download", "filter", "embed")
JOB_STATES = ("ready", "leased", "done", "dead", "discarded")
WORKER_STATES = ("active", "draining", "gone")
LEASE_ENDINGS = ("completed", "released", "failed", "taken_over", "evicted")
OUTPUT_KINDS = ("pack", "shard", "part", "embeddings")
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
# Of these links nobody knows whether they are alive; `dataset.pictures.outcomes` has the same, a test compares them.
NOT_WANTED = frozenset(
    {"blocked", "opted_out", "too_large", "too_many_pixels", "too_small", "side_too_short", "aspect_too_large"}
)
# What the ledger keeps. The law: in = pool + again + leased + finished. `filtered` says what became of the samples;
# jobs, rows_in, rows_out and milliseconds tell, by queue, what was done and how long it took. `packed` are the
# candidates in packs that wait for ingest; `stored` what the shards' tars hold (bytes, samples) and have ever held
# (written, in bytes); `bloom` the thousandths of links that the filter is expected to have dropped wrongly.
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
