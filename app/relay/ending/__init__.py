"""How calls end: what each end costs, its usage event, and the end of calls whose process died."""
