"""What there is to do: runs of WAT files, link lists, embed jobs."""
