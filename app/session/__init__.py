"""The session of a client: what its token is for."""
