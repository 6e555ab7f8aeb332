-- Two queues whose jobs are the units of builds. The values cannot be used in this transaction.
ALTER TYPE tracker.queue ADD VALUE 'index';
ALTER TYPE tracker.queue ADD VALUE 'dedup';
ALTER TYPE tracker.output_kind ADD VALUE 'index';
ALTER TYPE tracker.output_kind ADD VALUE 'dedup';

-- Work over a release in steps. The plan is fixed when the build is seeded; this row is locked while units are counted,
-- so that the last unit of a step is recognised once.
CREATE TABLE tracker.build (
    build_id INTEGER NOT NULL GENERATED ALWAYS AS IDENTITY,
    run_id INTEGER NOT NULL REFERENCES tracker.run (run_id),
    queue tracker.queue NOT NULL,
    target TEXT NOT NULL,
    version TEXT NOT NULL,
    options JSONB NOT NULL,
    plan JSONB NOT NULL,
    step INTEGER DEFAULT -1 NOT NULL,
    units_left INTEGER DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    finished_at timestamptz,
    abandoned_at timestamptz,
    PRIMARY KEY (build_id),
    CONSTRAINT build_options_are_an_object CHECK (jsonb_typeof(options) = 'object'),
    CONSTRAINT build_plan_is_a_list CHECK (jsonb_typeof(plan) = 'array'),
    CONSTRAINT build_counts_its_units CHECK (units_left >= 0),
    CONSTRAINT build_ends_once CHECK (finished_at IS NULL OR abandoned_at IS NULL)
);
CREATE UNIQUE INDEX build_live_for_seed ON tracker.build (run_id, queue, target)
    WHERE finished_at IS NULL AND abandoned_at IS NULL;
