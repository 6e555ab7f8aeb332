-- Three more accounts. After ADD VALUE they could not be used in this transaction, in which the rows that are already
-- in packs and shards must be counted. So the type is created again, with all labels that it has by now. Both tables
-- are small.
DROP VIEW tracker.tally;
DROP FUNCTION IF EXISTS
    tracker.post(integer, bigint, tracker.account, text, tracker.subset, bigint, integer);
ALTER TYPE tracker.account RENAME TO account_before;
DO $$
BEGIN
    EXECUTE (
        SELECT format('CREATE TYPE tracker.account AS ENUM (%s, %L, %L, %L)',
                      string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder), 'packed', 'stored', 'bloom')
        -- not enum_range, which refuses a label that was added earlier in this transaction
        FROM pg_enum WHERE enumtypid = 'tracker.account_before'::regtype
    );
END
$$;
ALTER TABLE tracker.ledger ALTER COLUMN account TYPE tracker.account USING account::text::tracker.account;
ALTER TABLE tracker.counter ALTER COLUMN account TYPE tracker.account USING account::text::tracker.account;
DROP TYPE tracker.account_before;
CREATE VIEW tracker.tally AS
SELECT run_id, account, label, subset, leaf, n FROM tracker.counter
UNION ALL
SELECT run_id, account, label, subset, leaf, n FROM tracker.ledger;

-- How long pictures are kept after their shard's part is finished. Runs that exist already keep theirs, because nobody
-- has agreed to delete them.
ALTER TABLE tracker.run ADD COLUMN keep_shards TEXT DEFAULT 'forever' NOT NULL;
ALTER TABLE tracker.run ALTER COLUMN keep_shards SET DEFAULT '24h';
ALTER TABLE tracker.run ADD CONSTRAINT run_keeps_shards_for_a_time
    CHECK (keep_shards ~ '^(kept|forever|[0-9]{1,6}[smhdw])$');

ALTER TABLE tracker.manifest
    ADD COLUMN tar_bytes BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN filtered_at timestamptz,
    ADD COLUMN kept_apart BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN tar_deleting_at timestamptz,
    ADD COLUMN tar_deleted_at timestamptz,
    ADD CONSTRAINT manifest_shards_alone_are_filtered CHECK (filtered_at IS NULL OR kind = 'shard'),
    ADD CONSTRAINT manifest_tar_is_marked_before_it_goes CHECK (tar_deleted_at IS NULL OR tar_deleting_at IS NOT NULL);
CREATE INDEX manifest_filtered_for_retention ON tracker.manifest (run_id, kept_apart, filtered_at)
    WHERE filtered_at IS NOT NULL AND tar_deleting_at IS NULL;
CREATE INDEX manifest_deleting_for_retention ON tracker.manifest (output_id)
    WHERE tar_deleting_at IS NOT NULL AND tar_deleted_at IS NULL;

UPDATE tracker.manifest SET tar_bytes = bytes WHERE kind = 'shard';  -- as received, slightly more than was written
UPDATE tracker.manifest SET filtered_at = job.finished_at
FROM tracker.job
WHERE job.queue = 'filter' AND job.state IN ('done', 'discarded') AND manifest.path = job.payload ->> 'shard';
INSERT INTO tracker.counter (run_id, account, label, n)
SELECT run_id, 'stored', label, sum(n)
FROM tracker.manifest,
     LATERAL (VALUES ('bytes', tar_bytes), ('written', tar_bytes), ('samples', samples)) AS entry (label, n)
WHERE kind = 'shard' GROUP BY run_id, label;
INSERT INTO tracker.counter (run_id, account, n)
SELECT run_id, 'packed', sum((payload ->> 'rows')::bigint)
FROM tracker.job WHERE queue = 'ingest' AND state NOT IN ('done', 'discarded') GROUP BY run_id;

-- The number of links drawn and not returned, at a moment: two rows give the rate at which the pool empties.
CREATE TABLE tracker.pace (
    measured_at timestamptz DEFAULT now() NOT NULL,
    came_in BIGINT NOT NULL,
    drawn BIGINT NOT NULL,
    PRIMARY KEY (measured_at)
);

INSERT INTO tracker.setting (name, value, least, most, meaning) VALUES
    ('packs_high', '500000000', 1, 1000000000000, 'extract is held when so many candidates wait in packs'),
    ('packs_resume', '300000000', 0, 1000000000000, 'extract goes on when the packs have fallen to this'),
    ('shard_bytes_high', '50000000000000', 1, 1000000000000000000, 'download is held when the shards'' tars have so many bytes'),
    ('shard_bytes_resume', '40000000000000', 0, 1000000000000000000, 'download goes on when the tars have fallen to this'),
    ('shard_samples_high', '2000000000', 1, 1000000000000, 'download is held when the shards'' tars hold so many samples'),
    ('shard_samples_resume', '1600000000', 0, 1000000000000, 'download goes on when the samples have fallen to this'),
    ('pool_low_hours', '6', 0, 8760, 'hours of drawing that the pool is to last for: status warns below');
