"""Prompts, bundled files, and files written whole."""
