"""Benchmarks and studies behind published numbers."""
