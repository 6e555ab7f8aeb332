"""What the database knows about links, jobs and workers, and what the admin changes in it: ledger, pool, audit, fleet,
settings, and the log of changes.
"""
