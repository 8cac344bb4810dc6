"""Spend it well: ledger, local steps, compress, schedule, send; server: buffer, weigh, aggregate."""
