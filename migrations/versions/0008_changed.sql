-- A link whose picture does not have the sha256 that its list gives.
ALTER TYPE tracker.outcome ADD VALUE 'changed';
