-- The last report of a download worker that was counted, so that a report that is repeated after a lost reply is not
-- counted again.
ALTER TABLE tracker.worker ADD COLUMN reported UUID;
UPDATE tracker.setting SET value = '2' WHERE name IN ('oldest_protocol', 'newest_protocol');
