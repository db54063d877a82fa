"""Settings: environment variables with the prefix BYOK_."""
