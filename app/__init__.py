"""Pharaoh BYOK stores and validates the Anthropic keys of organizations and shows them only masked."""

__version__ = "0.1.0"
