CREATE TABLE tracker.block (
    pattern text PRIMARY KEY,
    version bigint NOT NULL,
    lifted boolean NOT NULL DEFAULT false,
    reason text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT block_pattern_fits_its_index CHECK (octet_length(pattern) BETWEEN 1 AND 2000)
);
CREATE INDEX block_by_version_for_workers ON tracker.block (version);

CREATE TABLE tracker.resting (
    host text PRIMARY KEY,
    until timestamptz NOT NULL,
    refusals int NOT NULL,
    changed_at timestamptz NOT NULL,
    prober uuid,
    probe_until timestamptz,
    CONSTRAINT resting_host_is_a_name CHECK (octet_length(host) BETWEEN 1 AND 253),
    CONSTRAINT resting_refusals_are_a_number CHECK (refusals >= 0),
    CONSTRAINT resting_probe_has_an_end CHECK ((prober IS NULL) = (probe_until IS NULL))
);
CREATE INDEX resting_changed_for_beat ON tracker.resting (changed_at);

ALTER TABLE tracker.worker
    ADD COLUMN hosts_asked float8 NOT NULL DEFAULT 0,
    ADD COLUMN hosts_refused float8 NOT NULL DEFAULT 0,
    ADD COLUMN hosts_counted_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN burnt_at timestamptz,
    ADD COLUMN burnt_reason text,
    ADD CONSTRAINT worker_burnt_says_why CHECK ((burnt_at IS NULL) = (burnt_reason IS NULL));

INSERT INTO tracker.setting (name, value, least, most, meaning) VALUES
    ('rest_seconds', '60', 1, 3600, 'rest of a host after its first refusal; doubles with further ones'),
    ('rest_most_seconds', '3600', 1, 86400, 'longest rest that refusals add up to; a Retry-After is kept up to a day'),
    ('rest_forget_seconds', '21600', 60, 604800, 'a host whose rest has been over for so long, unprobed, is as any other'),
    ('rest_grace_seconds', '20', 1, 600, 'how long the others wait for the worker that asks a rested host first'),
    ('burnt_hosts', '200', 10, 1000000, 'fewest hosts asked, in about the last hour, before a worker may be found burnt'),
    ('burnt_factor', '3', 1.5, 1000, 'a worker refused by so many times the fleet''s median share of hosts is burnt, and drained');
