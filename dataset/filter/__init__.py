"""Shard → part: each sample gets a verdict; the samples that pass are written as a part."""
