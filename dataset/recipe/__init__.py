"""What is fixed with a run: models and thresholds, image rules, tags, and the extra columns of a link list."""
