"""Liveness, readiness of dependencies, metrics."""
