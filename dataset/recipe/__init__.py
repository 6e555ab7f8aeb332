"""The recipe of a run, which never changes: models and thresholds, image rules, tags, and the extra columns of a link
list.
"""
