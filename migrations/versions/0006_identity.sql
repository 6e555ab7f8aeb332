-- Sample keys are unique within one tracker only. A release that is made from the stores of several trackers identifies
-- each of them by this uuid, which manifest.parquet contains. It is created once, here; a restored backup keeps it.
CREATE TABLE tracker.identity (
    one BOOLEAN DEFAULT true NOT NULL,
    tracker UUID DEFAULT gen_random_uuid() NOT NULL,
    PRIMARY KEY (one),
    CONSTRAINT identity_is_one_row CHECK (one)
);
INSERT INTO tracker.identity DEFAULT VALUES;

-- md5 is computed for every picture and is not a rule of a recipe any more.
UPDATE tracker.run SET recipe = recipe #- '{image,md5}' WHERE recipe #> '{image,md5}' IS NOT NULL;
