"""The SQL functions of schema `tracker`, one readable file each."""
