"""Where keys are stored: one port, two adapters."""
