-- The rows that a job read and produced: rates are computed from them, independently of the format of the queue's
-- results.
ALTER TABLE tracker.lease ADD COLUMN rows_in BIGINT, ADD COLUMN rows_out BIGINT;

-- The folder of each queue's outputs; `tracker migrate` fills it from tracker/database/enums.py. The queue is text,
-- because a value that a migration adds to the enum cannot be used in the same transaction.
CREATE TABLE tracker.queue_folder (
    queue TEXT NOT NULL,
    folder TEXT NOT NULL,
    payload_keys TEXT[] NOT NULL,
    PRIMARY KEY (queue)
);

-- The jobs of a release belong to a run that is named after the release's folder, so their outputs lie in it.
ALTER TABLE tracker.run
    DROP CONSTRAINT run_name_fits_a_path,
    ADD CONSTRAINT run_name_fits_a_path CHECK (name ~ '^(releases/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}$');

-- A unit of work is seeded once per run and queue, however often its command is called.
CREATE UNIQUE INDEX job_unit_for_seed ON tracker.job (run_id, queue, (payload ->> 'unit'))
    WHERE payload ->> 'unit' IS NOT NULL;

-- Use the same word for the same thing in the schema too.
ALTER TABLE tracker.restriction RENAME TO hash_list;
ALTER TABLE tracker.hash_list RENAME CONSTRAINT restriction_pkey TO hash_list_pkey;
ALTER TABLE tracker.hash_list RENAME CONSTRAINT restriction_name_fits_a_path TO hash_list_name_fits_a_path;

-- Functions have new names, so workers of older protocols are refused.
UPDATE tracker.setting SET value = '3' WHERE name IN ('oldest_protocol', 'newest_protocol');
