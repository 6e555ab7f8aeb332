-- The privileges of each class of worker: it may execute its functions. It may not read or write tables, except that
-- ingest may insert into the pool.
GRANT USAGE ON SCHEMA tracker TO {logins};
GRANT EXECUTE ON FUNCTION
    tracker.register, tracker.claim, tracker.heartbeat, tracker.leave, tracker.release, tracker.fail, tracker.is_idle,
    tracker.waits_for,
    tracker.settle_recipe, tracker.hash_lists
TO {logins};
GRANT EXECUTE ON FUNCTION tracker.complete_extract TO shoal_extract;
GRANT EXECUTE ON FUNCTION
    tracker.lock_lease, tracker.complete_ingest, tracker.complete_list, tracker.open_leaves,
    tracker.bloom_hold, tracker.bloom_release, tracker.bloom_snapshot
TO shoal_ingest;
GRANT EXECUTE ON FUNCTION
    tracker.draw, tracker.complete_download, tracker.heartbeat_download, tracker.blocks
TO shoal_download;
GRANT EXECUTE ON FUNCTION tracker.complete_filter TO shoal_filter;
GRANT EXECUTE ON FUNCTION tracker.settle_model, tracker.complete_embed TO shoal_embed;
GRANT EXECUTE ON FUNCTION tracker.complete_index TO shoal_index;
GRANT EXECUTE ON FUNCTION tracker.complete_dedup TO shoal_dedup;
GRANT EXECUTE ON FUNCTION tracker.complete_tag TO shoal_tag;
