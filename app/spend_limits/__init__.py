"""Spend limits and reservations."""
