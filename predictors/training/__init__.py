"""Lightning training of predictors."""
