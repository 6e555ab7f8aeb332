-- Name the model of embeddings. Until a worker has settled its checksums, it may be replaced by another model.
INSERT INTO tracker.embedding (run_id, name, model, pretrained)
VALUES (%(run_id)s, %(name)s, %(model)s, %(pretrained)s)
ON CONFLICT (run_id, name) DO UPDATE SET model = EXCLUDED.model, pretrained = EXCLUDED.pretrained
    WHERE embedding.sha256 IS NULL
