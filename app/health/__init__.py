"""Liveness, readiness of the dependencies, and metrics."""
