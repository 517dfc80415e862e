"""Predictors of how many drafted tokens will be accepted."""
