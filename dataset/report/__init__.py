"""One HTML page on what the manifest lists."""
