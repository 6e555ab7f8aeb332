"""The demo: a mini crawl with planted faults, its web, its pictures, its model."""
