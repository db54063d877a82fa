"""Egress: all connections to the internet are made here."""
