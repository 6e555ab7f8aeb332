"""Coordinate the workers: schema, queues, pool, ledger and the admin's command. Nothing here depends on images."""
