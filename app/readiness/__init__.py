"""Whether provider-backed work may start."""
