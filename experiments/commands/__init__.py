"""The subcommands of `adaeagle`, one a file, and what they share."""
