"""What is known of every link, job and worker: the ledger, the pool, the audit, the log of changes."""
