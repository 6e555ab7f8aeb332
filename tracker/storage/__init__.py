"""The tracker's work on the store: manifest, retention, sweep and hash lists."""
