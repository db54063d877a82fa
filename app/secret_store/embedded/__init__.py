"""The embedded secret store: encrypted envelopes in a PostgreSQL table."""
