"""How the bundled model `mini` is made, from public text to weights: `python -m experiments.mini`."""
