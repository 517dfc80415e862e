"""Network parts that several predictors share."""
