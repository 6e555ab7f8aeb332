"""The stage ingest: packs and link lists → pool."""
