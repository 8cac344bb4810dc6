"""Counters of joules, one file each, and the table that lists them."""
