"""Async repositories: take and return domain records, masked only."""
