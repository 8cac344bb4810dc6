"""Buffer updates, weigh them, aggregate, publish: one algorithm for every engine."""
