"""What usage costs: the price list and overrides."""
