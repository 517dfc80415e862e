"""Studies and the `adaeagle` command: the top floor, imported by nothing."""
