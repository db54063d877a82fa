"""Connections of the relay: aiohttp over the same address guard as probes."""
