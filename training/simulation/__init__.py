"""The in-process engine: a virtual clock, checkpoints, the run's record."""
