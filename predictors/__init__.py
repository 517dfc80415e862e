"""Networks, labels and Lightning training: they change how fast it drafts, never its text."""
