"""The embedded store: envelopes in a PostgreSQL table."""
