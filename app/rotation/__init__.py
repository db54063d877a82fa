"""Replacing a key without downtime, and rolling back."""
