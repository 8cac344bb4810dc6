"""Measuring inside other people's trainers: one file a framework, imported only where it is installed."""
