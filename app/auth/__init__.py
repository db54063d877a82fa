"""Who calls, and what the token allows."""
