"""Renders estimates, measurements and run folders; reads records, computes nothing new."""
