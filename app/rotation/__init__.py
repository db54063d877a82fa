"""Key rotation without downtime, and rollback."""
