"""All that workers import of the tracker: the session, and the forms in which links travel."""
