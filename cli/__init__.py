"""The `budjoule` command, one file a verb."""
