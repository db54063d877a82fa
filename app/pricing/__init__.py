"""Pricing: the price list, price overrides, and the backfill of missing prices."""
