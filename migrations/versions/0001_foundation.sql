-- The tables of schema tracker in the first release. `tracker migrate` sets the owner's role.

CREATE TYPE tracker.queue AS ENUM (
    'extract', 'ingest', 'download', 'filter'
);

CREATE TYPE tracker.subset AS ENUM (
    'en', 'multi', 'nolang'
);

CREATE TYPE tracker.outcome AS ENUM (
    'success', 'not_found', 'gone', 'http_error', 'server_error', 'rate_limited', 'forbidden', 'dns_error',
    'connect_error', 'timeout', 'tls_error', 'bad_response', 'truncated', 'too_large', 'too_small',
    'refused_address', 'bad_url', 'bad_redirect', 'redirect_loop', 'not_an_image', 'undecodable',
    'too_many_pixels', 'unsupported_format', 'opted_out', 'blocked'
);

CREATE TYPE tracker.account AS ENUM (
    'in', 'pool', 'again', 'leased', 'finished', 'filtered', 'jobs', 'rows_in', 'rows_out', 'milliseconds'
);

CREATE TYPE tracker.job_state AS ENUM (
    'ready', 'leased', 'done', 'dead', 'discarded'
);

CREATE TYPE tracker.worker_state AS ENUM (
    'active', 'draining', 'gone'
);

CREATE TYPE tracker.lease_ending AS ENUM (
    'completed', 'released', 'failed', 'taken_over', 'evicted'
);

CREATE TYPE tracker.output_kind AS ENUM (
    'pack', 'shard', 'part'
);

CREATE TABLE tracker.again (
    due_at timestamptz NOT NULL,
    run_id INTEGER NOT NULL,
    subset tracker.subset NOT NULL,
    attempt SMALLINT NOT NULL,
    pack BIGINT NOT NULL,
    pack_row INTEGER NOT NULL,
    language TEXT,
    url TEXT NOT NULL,
    text TEXT NOT NULL
);

CREATE INDEX again_due_for_choice ON tracker.again (due_at);

CREATE INDEX again_due_for_draw ON tracker.again (run_id, subset, due_at);

CREATE TABLE tracker.candidate (
    pack BIGINT NOT NULL,
    pack_row INTEGER NOT NULL,
    leaf INTEGER NOT NULL,
    run_id INTEGER NOT NULL,
    attempt SMALLINT NOT NULL,
    subset tracker.subset NOT NULL,
    language TEXT,
    url TEXT NOT NULL,
    text TEXT NOT NULL
)
 PARTITION BY LIST (subset);

CREATE TABLE tracker.change (
    change_id BIGINT GENERATED ALWAYS AS IDENTITY,
    changed_at timestamptz DEFAULT now() NOT NULL,
    who TEXT NOT NULL,
    login TEXT DEFAULT session_user NOT NULL,
    command TEXT NOT NULL,
    subject TEXT NOT NULL,
    before JSONB,
    after JSONB,
    PRIMARY KEY (change_id)
);

CREATE TABLE tracker.control (
    queue tracker.queue NOT NULL,
    paused BOOLEAN DEFAULT false NOT NULL,
    held BOOLEAN DEFAULT false NOT NULL,
    max_leased INTEGER,
    PRIMARY KEY (queue),
    CONSTRAINT control_limit_is_a_number CHECK (max_leased >= 0)
);

CREATE TABLE tracker.counter (
    run_id INTEGER NOT NULL,
    account tracker.account NOT NULL,
    label TEXT,
    subset tracker.subset,
    leaf INTEGER,
    n BIGINT NOT NULL,
    CONSTRAINT counter_key UNIQUE NULLS NOT DISTINCT (account, run_id, label, subset, leaf)
);

CREATE TABLE tracker.ledger (
    entry_id BIGINT GENERATED ALWAYS AS IDENTITY,
    run_id INTEGER NOT NULL,
    account tracker.account NOT NULL,
    label TEXT,
    subset tracker.subset,
    leaf INTEGER,
    n BIGINT NOT NULL,
    job_id BIGINT NOT NULL,
    posted_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (entry_id)
);

CREATE TABLE tracker.machine (
    name TEXT NOT NULL,
    kind tracker.queue NOT NULL,
    token_sha256 BYTEA NOT NULL,
    enrolled_at timestamptz DEFAULT now() NOT NULL,
    revoked_at timestamptz,
    PRIMARY KEY (name),
    UNIQUE (token_sha256)
);

CREATE TABLE tracker.run (
    run_id INTEGER GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    recipe JSONB NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (run_id),
    CONSTRAINT run_name_fits_a_path CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    CONSTRAINT run_recipe_is_an_object CHECK (jsonb_typeof(recipe) = 'object'),
    UNIQUE (name)
);

CREATE TABLE tracker.setting (
    name TEXT NOT NULL,
    value JSONB NOT NULL,
    least NUMERIC NOT NULL,
    most NUMERIC NOT NULL,
    meaning TEXT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT setting_is_within_its_bounds CHECK ((value #>> '{}')::numeric BETWEEN least AND most)
);

CREATE TABLE tracker.leaf (
    leaf INTEGER GENERATED ALWAYS AS IDENTITY,
    run_id INTEGER NOT NULL,
    subset tracker.subset NOT NULL,
    relation TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (leaf),
    FOREIGN KEY(run_id) REFERENCES tracker.run (run_id),
    UNIQUE (relation)
);

CREATE INDEX leaf_by_run_for_ingest ON tracker.leaf (run_id, subset);

CREATE TABLE tracker.worker (
    worker_id UUID DEFAULT gen_random_uuid() NOT NULL,
    kind tracker.queue NOT NULL,
    state tracker.worker_state DEFAULT 'active' NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    protocol SMALLINT NOT NULL,
    machine TEXT,
    registered_at timestamptz DEFAULT now() NOT NULL,
    seen_at timestamptz DEFAULT now() NOT NULL,
    progress BIGINT DEFAULT 0 NOT NULL,
    progressed_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (worker_id),
    FOREIGN KEY(machine) REFERENCES tracker.machine (name)
)
 WITH (fillfactor = 50);

CREATE INDEX worker_alive_for_takeover ON tracker.worker (kind) WHERE state <> 'gone';

CREATE TABLE tracker.bloom (
    slot SMALLSERIAL NOT NULL,
    holder UUID,
    ordinal BIGINT DEFAULT 0 NOT NULL,
    snapshot_ordinal BIGINT DEFAULT 0 NOT NULL,
    snapshot_path TEXT,
    PRIMARY KEY (slot),
    FOREIGN KEY(holder) REFERENCES tracker.worker (worker_id)
);

CREATE TABLE tracker.job (
    job_id BIGINT GENERATED ALWAYS AS IDENTITY,
    queue tracker.queue NOT NULL,
    state tracker.job_state DEFAULT 'ready' NOT NULL,
    run_id INTEGER NOT NULL,
    priority SMALLINT DEFAULT 0 NOT NULL,
    slot SMALLINT DEFAULT 0 NOT NULL,
    attempt SMALLINT DEFAULT 0 NOT NULL,
    payload JSONB DEFAULT '{}' NOT NULL,
    ready_at timestamptz DEFAULT now() NOT NULL,
    worker_id UUID,
    lease UUID,
    leased_at timestamptz,
    finished_at timestamptz,
    result JSONB,
    error TEXT,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (job_id),
    CONSTRAINT job_leased_has_a_lease CHECK (state <> 'leased' OR (lease IS NOT NULL AND worker_id IS NOT NULL AND leased_at IS NOT NULL)),
    CONSTRAINT job_end_has_a_moment CHECK ((state IN ('done', 'dead', 'discarded')) = (finished_at IS NOT NULL)),
    CONSTRAINT job_ready_is_nobodys CHECK (state <> 'ready' OR (lease IS NULL AND worker_id IS NULL)),
    CONSTRAINT job_dead_says_why CHECK (state <> 'dead' OR error IS NOT NULL),
    FOREIGN KEY(run_id) REFERENCES tracker.run (run_id),
    FOREIGN KEY(worker_id) REFERENCES tracker.worker (worker_id)
);

CREATE INDEX job_error_for_status ON tracker.job (job_id) WHERE error IS NOT NULL AND state <> 'done';

CREATE INDEX job_dead_for_admin ON tracker.job (queue) WHERE state = 'dead';

CREATE INDEX job_leased_for_takeover ON tracker.job (worker_id) WHERE state = 'leased';

-- A WAT file is seeded once per run, however often tracker seed is called.
CREATE UNIQUE INDEX job_wat_for_seed ON tracker.job (run_id, (payload ->> 'wat')) WHERE queue = 'extract';

CREATE INDEX job_ready_for_claim ON tracker.job (queue, slot, priority DESC, job_id) WHERE state = 'ready';

CREATE TABLE tracker.batch (
    job_id BIGINT NOT NULL,
    subset tracker.subset NOT NULL,
    n INTEGER NOT NULL,
    max_tries SMALLINT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (job_id),
    CONSTRAINT batch_is_not_empty CHECK (n > 0),
    FOREIGN KEY(job_id) REFERENCES tracker.job (job_id)
);

CREATE TABLE tracker.lease (
    lease UUID NOT NULL,
    job_id BIGINT NOT NULL,
    worker_id UUID NOT NULL,
    request UUID NOT NULL,
    granted_at timestamptz DEFAULT now() NOT NULL,
    ended_at timestamptz,
    ending tracker.lease_ending,
    PRIMARY KEY (lease),
    CONSTRAINT lease_ending_has_a_moment CHECK ((ending IS NULL) = (ended_at IS NULL)),
    FOREIGN KEY(job_id) REFERENCES tracker.job (job_id),
    FOREIGN KEY(worker_id) REFERENCES tracker.worker (worker_id)
);

CREATE INDEX lease_by_job_for_history ON tracker.lease (job_id);

CREATE INDEX lease_by_moment_for_workers ON tracker.lease (granted_at);

CREATE INDEX lease_by_request_for_repeat ON tracker.lease (request);

CREATE TABLE tracker.manifest (
    output_id BIGINT GENERATED ALWAYS AS IDENTITY,
    kind tracker.output_kind NOT NULL,
    run_id INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    lease UUID NOT NULL,
    subset tracker.subset,
    path TEXT NOT NULL,
    rows BIGINT NOT NULL,
    samples BIGINT DEFAULT 0 NOT NULL,
    bytes BIGINT DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (output_id),
    FOREIGN KEY(run_id) REFERENCES tracker.run (run_id),
    FOREIGN KEY(job_id) REFERENCES tracker.job (job_id),
    UNIQUE (path)
);

CREATE INDEX manifest_by_run_for_publish ON tracker.manifest (run_id, kind);

CREATE TABLE tracker.bloom_pack (
    slot SMALLINT NOT NULL,
    ordinal BIGINT NOT NULL,
    output_id BIGINT NOT NULL,
    PRIMARY KEY (slot, ordinal),
    FOREIGN KEY(slot) REFERENCES tracker.bloom (slot),
    FOREIGN KEY(output_id) REFERENCES tracker.manifest (output_id)
);

-- Neither compressed nor split into chunks, because a draw stores and returns the value as a whole.
ALTER TABLE tracker.batch ALTER COLUMN payload SET STORAGE EXTERNAL;

-- One partition per subset; below them are leaves, created at run time, so that a ctid identifies a row within one
-- small table.
CREATE TABLE tracker.candidate_en PARTITION OF tracker.candidate FOR VALUES IN ('en') PARTITION BY LIST (leaf);
CREATE TABLE tracker.candidate_multi PARTITION OF tracker.candidate FOR VALUES IN ('multi') PARTITION BY LIST (leaf);
CREATE TABLE tracker.candidate_nolang PARTITION OF tracker.candidate FOR VALUES IN ('nolang') PARTITION BY LIST (leaf);

-- The current sums of the ledger: the counters, and the entries that are not folded yet.
CREATE VIEW tracker.tally AS
SELECT run_id, account, label, subset, leaf, n FROM tracker.counter
UNION ALL
SELECT run_id, account, label, subset, leaf, n FROM tracker.ledger;

-- A leased job as its worker gets it.
CREATE TYPE tracker.claimed AS (
    job_id bigint, lease uuid, queue tracker.queue, attempt smallint, run_id integer, run text, recipe jsonb,
    payload jsonb, output text
);

INSERT INTO tracker.control (queue) VALUES ('extract'), ('ingest'), ('download'), ('filter');

INSERT INTO tracker.setting (name, value, least, most, meaning) VALUES
    ('lease_seconds', '60', 4, 3600, 'a worker whose beat is older may be overtaken; it beats four times in this time'),
    ('stall_seconds', '1800', 10, 86400, 'a worker whose progress has stood still for so long may be overtaken'),
    ('max_attempts', '5', 1, 100, 'a job that has failed this often is dead, kept for the admin'),
    ('retry_seconds', '10', 0, 3600, 'pause before a failed job is ready again; doubles with each attempt'),
    ('batch_size', '10000', 1, 100000, 'candidates in a batch, about'),
    ('max_tries', '3', 1, 20, 'tries of a link before a passing reason is its final outcome'),
    ('again_seconds', '600', 0, 86400, 'pause before the second try of a link; doubles with each try'),
    ('again_share', '0.2', 0, 1, 'most of a batch that may be links on a further try'),
    ('pool_high', '600000000', 1, 1000000000000, 'ingest is held when so many candidates wait in the pool'),
    ('pool_resume', '500000000', 0, 1000000000000, 'ingest goes on when the pool has fallen to this'),
    ('pool_low', '20000000', 0, 1000000000000, 'the pool''s mix goes bad below this: status warns'),
    ('leaf_rows', '20000000', 1, 1000000000, 'candidates in a leaf before a new one is opened'),
    ('weight_en', '1', 0, 1000000, 'weight of subset en when a batch is drawn; 0 draws none'),
    ('weight_multi', '1', 0, 1000000, 'weight of subset multi when a batch is drawn; 0 draws none'),
    ('weight_nolang', '1', 0, 1000000, 'weight of subset nolang when a batch is drawn; 0 draws none'),
    ('bloom_slots', '1', 1, 1000, 'pieces the Bloom filter is split into by the URL''s hash, each with one holder'),
    ('bloom_capacity', '100000000', 1, 100000000000, 'keys that the first stage of a slot''s filter is made for; it grows by doubling'),
    ('bloom_rate', '0.01', 0.000000001, 0.5, 'most of new links that the Bloom filter may drop wrongly'),
    ('bloom_language', '0', 0, 1, '1: URL and language are the Bloom filter''s key, not the URL alone'),
    ('bloom_snapshot_packs', '200', 1, 1000000, 'packs between two snapshots of a slot''s filter'),
    ('oldest_protocol', '1', 1, 1000, 'oldest worker protocol that is spoken'),
    ('newest_protocol', '1', 1, 1000, 'newest worker protocol that is spoken');

INSERT INTO tracker.bloom (slot) VALUES (0);
