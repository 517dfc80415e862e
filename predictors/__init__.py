"""Networks, labels and Lightning training: what may change the speed of drafting, never its text."""
