"""The store as the tracker sees it: the manifest, what is deleted when, and hash lists."""
