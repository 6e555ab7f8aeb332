"""Pictures that mean harm, and a worker that downloads them."""
