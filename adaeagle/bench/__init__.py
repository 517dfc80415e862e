"""Measuring policies against each other, interleaved, every result with its origin."""
