"""Shard → part: each sample gets a verdict; the pairs that pass are written as a part."""
