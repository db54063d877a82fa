"""Benchmarks. They compare alternatives in the same run, so that the ratios depend little on the machine."""
