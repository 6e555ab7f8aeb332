"""What the data is: WAT parsing, language, images, shards, models and parts; knows no database and no network."""
