"""How the bundled model `mini` is made from public text: `python -m experiments.mini`."""
