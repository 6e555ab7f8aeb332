"""What is fixed with a run: models and thresholds, image rules, tags, and the columns that a link list brings along."""
