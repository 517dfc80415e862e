"""Sweeps: policies tuned on the recorded texts of the tune split."""
