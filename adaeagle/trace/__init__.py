"""What target and draft model would say at every position of recorded texts."""
