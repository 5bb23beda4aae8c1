"""From run records and row files to tables, verdicts and claims. Needs neither torch nor Hydra."""
