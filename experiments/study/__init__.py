"""Studies: from two models to a leaderboard of tuned policies, stage by stage."""
