"""Training runs: recipes, schedule, checkpoints, and the loop itself."""
