"""Confirming: what sweeps found, run live on prompts that they have not seen."""
