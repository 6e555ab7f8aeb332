-- One more queue, and one more kind of output. Neither value can be used in this transaction: therefore indexes
-- recognise an embed job by its payload, and a queue without a row in tracker.control is open and has no limit.
ALTER TYPE tracker.queue ADD VALUE 'embed';
ALTER TYPE tracker.output_kind ADD VALUE 'embeddings';

-- A model that embeds a run's samples. The first worker records its checksums, and all others must have the same.
CREATE TABLE tracker.embedding (
    run_id INTEGER NOT NULL REFERENCES tracker.run (run_id),
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    pretrained TEXT,
    sha256 TEXT,
    config_sha256 TEXT,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (run_id, name),
    CONSTRAINT embedding_name_fits_a_path CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    CONSTRAINT embedding_is_settled_whole CHECK ((sha256 IS NULL) = (config_sha256 IS NULL))
);

-- A part, shard or tar is seeded once per model, however often tracker embed is called.
CREATE UNIQUE INDEX job_embedding_for_seed ON tracker.job (run_id, (payload ->> 'embedding'), (payload ->> 'source'))
    WHERE payload ->> 'embedding' IS NOT NULL;

-- Number of embed jobs that still need a shard's pictures. While it is above 0, the pictures are kept, whatever the
-- run's setting.
ALTER TABLE tracker.manifest ADD COLUMN embeds INTEGER DEFAULT 0 NOT NULL;
DROP INDEX tracker.manifest_filtered_for_retention;
CREATE INDEX manifest_filtered_for_retention ON tracker.manifest (run_id, kept_apart, filtered_at)
    WHERE filtered_at IS NOT NULL AND tar_deleting_at IS NULL AND embeds = 0;
