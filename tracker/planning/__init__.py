"""A simulation of a crawl before it runs, and the balance of its machines while it runs."""
