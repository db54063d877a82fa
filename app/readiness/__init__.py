"""Readiness: whether provider-backed work may start."""
