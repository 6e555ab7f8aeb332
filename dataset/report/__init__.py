"""HTML pages about a run, a release or tables."""
