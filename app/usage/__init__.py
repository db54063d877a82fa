"""The usage ledger: events in, rows out."""
