-- A link whose picture is not the one that its list names by sha256.
ALTER TYPE tracker.outcome ADD VALUE 'changed';
