"""Commands on the secret store: rotate the root key, rewrap, move to Vault."""
