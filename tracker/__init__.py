"""Who does what: schema, queue, pool, ledger and the admin command; knows nothing of images."""
