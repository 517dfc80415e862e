"""Replaying policies on recorded texts, and the oracles that say what there was to win."""
