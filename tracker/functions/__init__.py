"""The SQL functions of schema `tracker`, one file each."""
