"""Idempotency-Key: a repeated request is executed once."""
