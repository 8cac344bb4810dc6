"""What does it cost? Trace a model, cost its ops, predict time and energy; read meters; report."""
