"""The predictor behind `cost_aware`: acceptance before and after tokens are drafted."""
