"""A crawl before it is run, and its machines while it runs."""
