"""Usage by time and group: rollups and reports."""
