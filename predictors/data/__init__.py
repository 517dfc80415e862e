"""Training examples made from traces."""
