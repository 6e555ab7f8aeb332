"""The store as the tracker sees it: manifest, retention, sweep and hash lists."""
