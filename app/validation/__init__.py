"""Validation of keys against the provider: on request, after saving and rotating, and periodically."""
