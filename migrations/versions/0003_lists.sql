-- What a finished list of links needs: its extra columns beside each candidate, and jobs that are seeded once.

-- The other columns of a list's row, as a JSON object. '' and not null for all others: a null would cost every row of
-- a crawl a bitmap of 8 bytes, the empty text costs 1.
ALTER TABLE tracker.candidate ADD COLUMN extra TEXT DEFAULT '' NOT NULL;
ALTER TABLE tracker.again ADD COLUMN extra TEXT DEFAULT '' NOT NULL;

-- A piece of a list is seeded once a run, however often tracker seed is called.
CREATE UNIQUE INDEX job_list_for_seed ON tracker.job (run_id, (payload ->> 'list'), (payload ->> 'first_group'))
    WHERE queue = 'ingest' AND payload ->> 'list' IS NOT NULL;

ALTER TYPE tracker.outcome ADD VALUE 'side_too_short';
ALTER TYPE tracker.outcome ADD VALUE 'aspect_too_large';

-- The operator's lists of hashes never to keep; the hashes themselves lie in the store.
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
