"""Leases: short-lived, single-use access to the active key, through Vault."""
