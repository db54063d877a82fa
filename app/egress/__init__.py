"""The only way to the internet."""
