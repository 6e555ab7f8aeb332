-- For link lists: their extra columns, stored with each candidate, and jobs that are seeded once.

-- The other columns of a list's row, as a JSON object. For other candidates it is '' instead of null: a null would add
-- a bitmap of 8 bytes to each row of a crawl, an empty text adds 1 byte.
ALTER TABLE tracker.candidate ADD COLUMN extra TEXT DEFAULT '' NOT NULL;
ALTER TABLE tracker.again ADD COLUMN extra TEXT DEFAULT '' NOT NULL;

-- A piece of a list is seeded once per run, however often tracker seed is called.
CREATE UNIQUE INDEX job_list_for_seed ON tracker.job (run_id, (payload ->> 'list'), (payload ->> 'first_group'))
    WHERE queue = 'ingest' AND payload ->> 'list' IS NOT NULL;

ALTER TYPE tracker.outcome ADD VALUE 'side_too_short';
ALTER TYPE tracker.outcome ADD VALUE 'aspect_too_large';

-- The operator's lists of hashes of pictures that must not be kept; the hashes themselves are in the store.
CREATE TABLE tracker.restriction (
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    hashes JSONB NOT NULL,
    added_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT restriction_name_fits_a_path CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$')
);
