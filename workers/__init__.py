"""The work, one module a stage, in the order in which the data flows; each is claim, work, complete."""
