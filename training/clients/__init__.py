"""A client of the fleet: its device and link, its local steps and what they cost."""
