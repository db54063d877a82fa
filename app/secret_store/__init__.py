"""Secret stores: one port with two adapters, the embedded store and Vault."""
