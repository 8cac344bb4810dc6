"""A device that trains for real: its blocks, and a state that survives whatever ends the process."""
