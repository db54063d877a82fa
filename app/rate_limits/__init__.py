"""Limits on requests per organization and minute."""
