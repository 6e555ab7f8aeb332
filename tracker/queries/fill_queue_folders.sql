-- Replace the folders of all queues by those of tracker/database/enums.py.
WITH known AS (
    SELECT queue, folder, payload_keys
    FROM jsonb_to_recordset(%(queues)s::jsonb) AS told (queue text, folder text, payload_keys text[])
), dropped AS (
    DELETE FROM tracker.queue_folder WHERE queue NOT IN (SELECT queue FROM known)
)
INSERT INTO tracker.queue_folder (queue, folder, payload_keys)
SELECT queue, folder, payload_keys FROM known
ON CONFLICT (queue) DO UPDATE SET folder = excluded.folder, payload_keys = excluded.payload_keys
