"""Everything that workers import from the tracker: the session, and the formats in which links are sent."""
