"""The only door to the internet."""
