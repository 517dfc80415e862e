"""What the parts of a round cost: measuring it, and the model made of it."""
