"""A client of the fleet: its device and link, its local steps, what they cost and how much memory they take."""
