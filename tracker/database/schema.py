"""The tables of schema `tracker`, as SQLAlchemy 2 knows them.

The migrations create them; a test compares the migrated database with this module. Leaves of the pool are created at
run time by `tracker.accounts.pool`. The order of columns suits a person who reads a row in psql.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from tracker.database.enums import (
    ACCOUNTS,
    JOB_STATES,
    LEASE_ENDINGS,
    OUTCOMES,
    OUTPUT_KINDS,
    QUEUES,
    SUBSETS,
    WORKER_STATES,
)

metadata = MetaData(schema="tracker")

queue = Enum(*QUEUES, name="queue", metadata=metadata)
subset = Enum(*SUBSETS, name="subset", metadata=metadata)
outcome = Enum(*OUTCOMES, name="outcome", metadata=metadata)
account = Enum(*ACCOUNTS, name="account", metadata=metadata)
job_state = Enum(*JOB_STATES, name="job_state", metadata=metadata)
worker_state = Enum(*WORKER_STATES, name="worker_state", metadata=metadata)
lease_ending = Enum(*LEASE_ENDINGS, name="lease_ending", metadata=metadata)
output_kind = Enum(*OUTPUT_KINDS, name="output_kind", metadata=metadata)

Moment = DateTime(timezone=True)
NOW = text("now()")


setting = Table(
    "setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
    Column("least", Numeric, nullable=False),
    Column("most", Numeric, nullable=False),
    Column("meaning", Text, nullable=False),
    CheckConstraint("(value #>> '{}')::numeric BETWEEN least AND most", name="setting_is_within_its_bounds"),
)

run = Table(
    "run",
    metadata,
    Column("run_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("recipe", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    # How long a shard's pictures are kept after its part is finished: a time like 24h; `kept`, only those of kept
    # pairs, in the part's own tar; `forever`.
    Column("keep_shards", Text, nullable=False, server_default=text("'24h'")),
    CheckConstraint("keep_shards ~ '^(kept|forever|[0-9]{1,6}[smhdw])$'", name="run_keeps_shards_for_a_time"),
    # The run of the jobs over a release is called releases/NAME, like the release's folder.
    CheckConstraint("name ~ '^(releases/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name="run_name_fits_a_path"),
    CheckConstraint("jsonb_typeof(recipe) = 'object'", name="run_recipe_is_an_object"),
)

# A UUID that identifies this tracker, created once by the migration.
identity = Table(
    "identity",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("tracker", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    CheckConstraint("one", name="identity_is_one_row"),
)

# A queue without a row here is open and has no limit.
control = Table(
    "control",
    metadata,
    Column("queue", queue, primary_key=True),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    # Set by the watermarks: a queue is held from its high mark on, until the waiting work has fallen to the resume
    # mark.
    Column("held", Boolean, nullable=False, server_default=text("false")),
    # Maximum number of leased jobs; null means no limit.
    Column("max_leased", Integer),
    CheckConstraint("max_leased >= 0", name="control_limit_is_a_number"),
)

# The folder of each queue's outputs; filled by `tracker migrate` from QUEUE_TABLE. The values of the payload's keys are
# the names of the folders below `folder`.
queue_folder = Table(
    "queue_folder",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("payload_keys", ARRAY(Text), nullable=False),
)

machine = Table(
    "machine",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", queue, nullable=False),
    Column("token_sha256", LargeBinary, nullable=False, unique=True),
    Column("enrolled_at", Moment, nullable=False, server_default=NOW),
    Column("revoked_at", Moment),
)

worker = Table(
    "worker",
    metadata,
    Column("worker_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("kind", queue, nullable=False),
    Column("state", worker_state, nullable=False, server_default=text("'active'")),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("protocol", SmallInteger, nullable=False),
    Column("machine", Text, ForeignKey("tracker.machine.name")),
    Column("registered_at", Moment, nullable=False, server_default=NOW),
    Column("seen_at", Moment, nullable=False, server_default=NOW),
    Column("progress", BigInteger, nullable=False, server_default=text("0")),
    Column("progressed_at", Moment, nullable=False, server_default=NOW),
    # Hosts that a download worker asked, and those of them that refused it. The weight of a count halves every hour.
    Column("hosts_asked", Double, nullable=False, server_default=text("0")),
    Column("hosts_refused", Double, nullable=False, server_default=text("0")),
    Column("hosts_counted_at", Moment, nullable=False, server_default=NOW),
    # The last report of refusals that was counted.
    Column("reported", Uuid),
    Column("burnt_at", Moment),
    Column("burnt_reason", Text),
    CheckConstraint("(burnt_at IS NULL) = (burnt_reason IS NULL)", name="worker_burnt_says_why"),
    # A heartbeat rewrites the row. With half of each page free, the new version stays on the same page and no index is
    # written.
    postgresql_with={"fillfactor": "50"},
)
Index("worker_alive_for_takeover", worker.c.kind, postgresql_where=text("state <> 'gone'"))

job = Table(
    "job",
    metadata,
    Column("job_id", BigInteger, Identity(always=True), primary_key=True),
    Column("queue", queue, nullable=False),
    Column("state", job_state, nullable=False, server_default=text("'ready'")),
    Column("run_id", Integer, ForeignKey("tracker.run.run_id"), nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    # The slot of the Bloom filter that an ingest job belongs to; 0 elsewhere.
    Column("slot", SmallInteger, nullable=False, server_default=text("0")),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'")),
    Column("ready_at", Moment, nullable=False, server_default=NOW),
    Column("worker_id", Uuid, ForeignKey("tracker.worker.worker_id")),
    Column("lease", Uuid),
    Column("leased_at", Moment),
    Column("finished_at", Moment),
    Column("result", JSONB),
    Column("error", Text),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint(
        "state <> 'leased' OR (lease IS NOT NULL AND worker_id IS NOT NULL AND leased_at IS NOT NULL)",
        name="job_leased_has_a_lease",
    ),
    CheckConstraint(
        "(state IN ('done', 'dead', 'discarded')) = (finished_at IS NOT NULL)", name="job_end_has_a_moment"
    ),
    CheckConstraint("state <> 'ready' OR (lease IS NULL AND worker_id IS NULL)", name="job_ready_is_nobodys"),
    CheckConstraint("state <> 'dead' OR error IS NOT NULL", name="job_dead_says_why"),
)
Index(
    "job_ready_for_claim",
    job.c.queue,
    job.c.slot,
    job.c.priority.desc(),
    job.c.job_id,
    postgresql_where=text("state = 'ready'"),
)
Index("job_leased_for_takeover", job.c.worker_id, postgresql_where=text("state = 'leased'"))
Index(
    "job_wat_for_seed",
    job.c.run_id,
    text("(payload ->> 'wat')"),
    unique=True,
    postgresql_where=text("queue = 'extract'"),
)
Index(
    "job_list_for_seed",
    job.c.run_id,
    text("(payload ->> 'list')"),
    text("(payload ->> 'first_group')"),
    unique=True,
    postgresql_where=text("queue = 'ingest' AND payload ->> 'list' IS NOT NULL"),
)
Index(
    "job_embedding_for_seed",
    job.c.run_id,
    text("(payload ->> 'embedding')"),
    text("(payload ->> 'source')"),
    unique=True,
    postgresql_where=text("payload ->> 'embedding' IS NOT NULL"),
)
Index(
    "job_unit_for_seed",
    job.c.run_id,
    job.c.queue,
    text("(payload ->> 'unit')"),
    unique=True,
    postgresql_where=text("payload ->> 'unit' IS NOT NULL"),
)
Index("job_error_for_status", job.c.job_id, postgresql_where=text("error IS NOT NULL AND state <> 'done'"))
Index("job_dead_for_admin", job.c.queue, postgresql_where=text("state = 'dead'"))

lease = Table(
    "lease",
    metadata,
    Column("lease", Uuid, primary_key=True),
    Column("job_id", BigInteger, ForeignKey("tracker.job.job_id"), nullable=False),
    Column("worker_id", Uuid, ForeignKey("tracker.worker.worker_id"), nullable=False),
    Column("request", Uuid, nullable=False),
    Column("granted_at", Moment, nullable=False, server_default=NOW),
    Column("ended_at", Moment),
    Column("ending", lease_ending),
    # The job's rows in and out, if the lease ended with the job's completion; null for a piece of a link list.
    Column("rows_in", BigInteger),
    Column("rows_out", BigInteger),
    CheckConstraint("(ending IS NULL) = (ended_at IS NULL)", name="lease_ending_has_a_moment"),
)
Index("lease_by_request_for_repeat", lease.c.request)
Index("lease_by_job_for_history", lease.c.job_id)
Index("lease_by_moment_for_workers", lease.c.granted_at)

batch = Table(
    "batch",
    metadata,
    Column("job_id", BigInteger, ForeignKey("tracker.job.job_id"), primary_key=True),
    Column("subset", subset, nullable=False),
    Column("n", Integer, nullable=False),
    # The run's recipe when the batch was drawn; the batch's worker uses this one.
    Column("max_tries", SmallInteger, nullable=False),
    # One line per candidate, STORAGE EXTERNAL: faster than arrays or jsonb (docs/performance.md).
    Column("payload", Text, nullable=False),
    CheckConstraint("n > 0", name="batch_is_not_empty"),
)

leaf = Table(
    "leaf",
    metadata,
    Column("leaf", Integer, Identity(always=True), primary_key=True),
    Column("run_id", Integer, ForeignKey("tracker.run.run_id"), nullable=False),
    Column("subset", subset, nullable=False),
    Column("relation", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=NOW),
)
Index("leaf_by_run_for_ingest", leaf.c.run_id, leaf.c.subset)

candidate = Table(
    "candidate",
    metadata,
    Column("pack", BigInteger, nullable=False),
    Column("pack_row", Integer, nullable=False),
    Column("leaf", Integer, nullable=False),
    Column("run_id", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("subset", subset, nullable=False),
    Column("language", Text),
    Column("url", Text, nullable=False),
    Column("text", Text, nullable=False),
    # The other columns of a list's row, as a JSON object; '' for a crawl, because a null would make each row 8 bytes
    # longer.
    Column("extra", Text, nullable=False, server_default=text("''")),
    postgresql_partition_by="LIST (subset)",
)

again = Table(
    "again",
    metadata,
    Column("due_at", Moment, nullable=False),
    Column("run_id", Integer, nullable=False),
    Column("subset", subset, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("pack", BigInteger, nullable=False),
    Column("pack_row", Integer, nullable=False),
    Column("language", Text),
    Column("url", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("extra", Text, nullable=False, server_default=text("''")),
)
Index("again_due_for_choice", again.c.due_at)
Index("again_due_for_draw", again.c.run_id, again.c.subset, again.c.due_at)

manifest = Table(
    "manifest",
    metadata,
    Column("output_id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", output_kind, nullable=False),
    Column("run_id", Integer, ForeignKey("tracker.run.run_id"), nullable=False),
    Column("job_id", BigInteger, ForeignKey("tracker.job.job_id"), nullable=False),
    Column("lease", Uuid, nullable=False),
    Column("subset", subset),
    # The stem in the store; each file's name adds the ending of its kind.
    Column("path", Text, nullable=False, unique=True),
    Column("rows", BigInteger, nullable=False),
    Column("samples", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    # Size of the tar in the store: a shard's pictures, or those of a part's kept pairs.
    Column("tar_bytes", BigInteger, nullable=False, server_default=text("0")),
    # For a shard: when its part was finished (or it was discarded), and whether another tar has a copy of all pictures
    # that must be kept.
    Column("filtered_at", Moment),
    Column("kept_apart", Boolean, nullable=False, server_default=text("false")),
    # Number of embed jobs that still need the shard's tar, which is kept until this is 0.
    Column("embeds", Integer, nullable=False, server_default=text("0")),
    # From the first time on, the tar may be missing; from the second on, it is deleted. The parquet stays.
    Column("tar_deleting_at", Moment),
    Column("tar_deleted_at", Moment),
    CheckConstraint("filtered_at IS NULL OR kind = 'shard'", name="manifest_shards_alone_are_filtered"),
    CheckConstraint(
        "tar_deleted_at IS NULL OR tar_deleting_at IS NOT NULL", name="manifest_tar_is_marked_before_it_goes"
    ),
)
Index(
    "manifest_filtered_for_retention",
    manifest.c.run_id,
    manifest.c.kept_apart,
    manifest.c.filtered_at,
    postgresql_where=text("filtered_at IS NOT NULL AND tar_deleting_at IS NULL AND embeds = 0"),
)
Index(
    "manifest_deleting_for_retention",
    manifest.c.output_id,
    postgresql_where=text("tar_deleting_at IS NOT NULL AND tar_deleted_at IS NULL"),
)
Index("manifest_by_run_for_publish", manifest.c.run_id, manifest.c.kind)

# A second model that embeds a run's samples. The first embed worker records the checksums of the model that it has
# loaded.
embedding = Table(
    "embedding",
    metadata,
    Column("run_id", Integer, ForeignKey("tracker.run.run_id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("pretrained", Text),
    Column("sha256", Text),
    Column("config_sha256", Text),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name="embedding_name_fits_a_path"),
    CheckConstraint("(sha256 IS NULL) = (config_sha256 IS NULL)", name="embedding_is_settled_whole"),
)

# Work over a release in steps. The plan is fixed when the build is seeded; this row is locked while units are counted,
# so that the last unit of a step is recognised once.
build = Table(
    "build",
    metadata,
    Column("build_id", Integer, Identity(always=True), primary_key=True),
    Column("run_id", Integer, ForeignKey("tracker.run.run_id"), nullable=False),
    Column("queue", queue, nullable=False),
    # The result that the build makes: for an index its model; near-duplicates have only one.
    Column("target", Text, nullable=False),
    # The version of the release for which the plan was made.
    Column("version", Text, nullable=False),
    Column("options", JSONB, nullable=False),
    # [[name, units], …]
    Column("plan", JSONB, nullable=False),
    # The index in the plan of the current step; -1 before the first step, the plan's length after the last one.
    Column("step", Integer, nullable=False, server_default=text("-1")),
    # Units of the current step that are not done.
    Column("units_left", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("finished_at", Moment),
    Column("abandoned_at", Moment),
    CheckConstraint("jsonb_typeof(options) = 'object'", name="build_options_are_an_object"),
    CheckConstraint("jsonb_typeof(plan) = 'array'", name="build_plan_is_a_list"),
    CheckConstraint("units_left >= 0", name="build_counts_its_units"),
    CheckConstraint("finished_at IS NULL OR abandoned_at IS NULL", name="build_ends_once"),
)
Index(
    "build_live_for_seed",
    build.c.run_id,
    build.c.queue,
    build.c.target,
    unique=True,
    postgresql_where=text("finished_at IS NULL AND abandoned_at IS NULL"),
)

bloom = Table(
    "bloom",
    metadata,
    Column("slot", SmallInteger, primary_key=True),
    Column("holder", Uuid, ForeignKey("tracker.worker.worker_id")),
    # The number of packs that have been committed through this slot, and how many of them the snapshot contains.
    Column("ordinal", BigInteger, nullable=False, server_default=text("0")),
    Column("snapshot_ordinal", BigInteger, nullable=False, server_default=text("0")),
    Column("snapshot_path", Text),
)

bloom_pack = Table(
    "bloom_pack",
    metadata,
    Column("slot", SmallInteger, ForeignKey("tracker.bloom.slot"), primary_key=True),
    Column("ordinal", BigInteger, primary_key=True),
    Column("output_id", BigInteger, ForeignKey("tracker.manifest.output_id"), nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("entry_id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", Integer, nullable=False),
    Column("account", account, nullable=False),
    Column("label", Text),
    Column("subset", subset),
    Column("leaf", Integer),
    Column("n", BigInteger, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("posted_at", Moment, nullable=False, server_default=NOW),
)

counter = Table(
    "counter",
    metadata,
    Column("run_id", Integer, nullable=False),
    Column("account", account, nullable=False),
    Column("label", Text),
    Column("subset", subset),
    Column("leaf", Integer),
    Column("n", BigInteger, nullable=False),
    UniqueConstraint(
        "account", "run_id", "label", "subset", "leaf", name="counter_key", postgresql_nulls_not_distinct=True
    ),
)

# The number of links that had come in, and that had been drawn and not returned, at a moment; `tracker serve` records
# it at intervals.
pace = Table(
    "pace",
    metadata,
    Column("measured_at", Moment, primary_key=True, server_default=NOW),
    Column("came_in", BigInteger, nullable=False),
    Column("drawn", BigInteger, nullable=False),
)

# Hosts and URL prefixes that no worker may contact, as `tracker.protocol.blocklist` normalises them. The row of a
# lifted block stays, so that workers with an older version of the list learn of it.
block = Table(
    "block",
    metadata,
    Column("pattern", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("lifted", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text, nullable=False),
    Column("changed_at", Moment, nullable=False, server_default=NOW),
    # The largest entry of a B-tree has 2,704 bytes.
    CheckConstraint("octet_length(pattern) BETWEEN 1 AND 2000", name="block_pattern_fits_its_index"),
)
Index("block_by_version_for_workers", block.c.version)

# Hosts that have refused requests, and the end of their rests. With 0 refusals the rest is over, but workers must still
# learn of it.
resting = Table(
    "resting",
    metadata,
    Column("host", Text, primary_key=True),
    Column("until", Moment, nullable=False),
    Column("refusals", Integer, nullable=False),
    Column("changed_at", Moment, nullable=False),
    # The worker that may send the first request after the rest, and how long the others wait for it. There is no
    # foreign key: if the worker is gone, its probe expires.
    Column("prober", Uuid),
    Column("probe_until", Moment),
    CheckConstraint("octet_length(host) BETWEEN 1 AND 253", name="resting_host_is_a_name"),
    CheckConstraint("refusals >= 0", name="resting_refusals_are_a_number"),
    CheckConstraint("(prober IS NULL) = (probe_until IS NULL)", name="resting_probe_has_an_end"),
)
Index("resting_changed_for_beat", resting.c.changed_at)

# The operator's lists of hashes of pictures that must not be kept; the hashes themselves are in the store.
hash_list = Table(
    "hash_list",
    metadata,
    Column("name", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),  # of the file at `path`
    Column("hashes", JSONB, nullable=False),  # how many of each kind
    Column("added_at", Moment, nullable=False, server_default=NOW),
    CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name="hash_list_name_fits_a_path"),
)

# The changes by the admin's commands; `tracker log` shows them.
change = Table(
    "change",
    metadata,
    Column("change_id", BigInteger, Identity(always=True), primary_key=True),
    Column("changed_at", Moment, nullable=False, server_default=NOW),
    Column("who", Text, nullable=False),
    Column("login", Text, nullable=False, server_default=text("session_user")),
    Column("command", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
)
