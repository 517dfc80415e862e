"""The round, and everything that decides which tokens a text gets."""
