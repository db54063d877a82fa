"""The usage ledger: ingests events and lists rows."""
