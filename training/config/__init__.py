"""A run's configuration: every key with its default, and the presets of the methods."""
