"""Rate limits: requests per organization and minute."""
