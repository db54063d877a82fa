"""Pharaoh BYOK: keeps organizations' own Anthropic keys, validates them, hands out only masked metadata."""

__version__ = "0.1.0"
