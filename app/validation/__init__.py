"""Whether the provider accepts a key: on demand, after saving, periodically."""
