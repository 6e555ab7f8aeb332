"""Add work: runs of WAT files, link lists, embed jobs, jobs over a release."""
