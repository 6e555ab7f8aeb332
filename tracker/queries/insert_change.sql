-- Record a change by an admin's command.
INSERT INTO tracker.change (who, command, subject, before, after)
VALUES (%(who)s, %(command)s, %(subject)s, %(before)s, %(after)s)
