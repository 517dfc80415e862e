"""Predictors of whether a drafted token will be accepted."""
