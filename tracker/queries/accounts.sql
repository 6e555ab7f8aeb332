-- Return where the candidates of each run and subset are, according to the ledger.
SELECT run.name AS run, tally.subset::text AS subset, tally.account::text AS account, tally.label, sum(n)::bigint AS n
FROM tracker.tally JOIN tracker.run USING (run_id)
WHERE tally.account IN ('in', 'pool', 'again', 'leased', 'finished')
GROUP BY run.name, tally.subset, tally.account, tally.label
