-- Sample keys are unique within one tracker only. A release made of several trackers' stores names each by this uuid,
-- which manifest.parquet carries. It is made once, here; a restored backup keeps it.
CREATE TABLE tracker.identity (
    one BOOLEAN DEFAULT true NOT NULL,
    tracker UUID DEFAULT gen_random_uuid() NOT NULL,
    PRIMARY KEY (one),
    CONSTRAINT identity_is_one_row CHECK (one)
);
INSERT INTO tracker.identity DEFAULT VALUES;

-- md5 is computed of every picture now; it is no rule of a recipe any more.
UPDATE tracker.run SET recipe = recipe #- '{image,md5}' WHERE recipe #> '{image,md5}' IS NOT NULL;
