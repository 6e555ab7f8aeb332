"""Alembic migrations of schema `tracker`."""
