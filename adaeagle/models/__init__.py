"""The target: a Hugging Face causal LM, its layers, cache, masks and checks."""
