"""The settings: environment variables with the prefix BYOK_."""
