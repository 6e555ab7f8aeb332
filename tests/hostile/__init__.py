"""Hostile pictures, and a worker that downloads them."""
