"""The PostgreSQL server of development, under the data directory."""
