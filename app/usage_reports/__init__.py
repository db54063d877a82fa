"""Usage reports by time and dimension, and the rollups that make them fast."""
