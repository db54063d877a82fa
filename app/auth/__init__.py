"""Authentication: who calls, and what the token allows."""
