"""HTTP in, HTTP out. Decides nothing, opens nothing."""
