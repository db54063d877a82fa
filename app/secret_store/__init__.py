"""Where keys rest: one port, several adapters."""
