"""The operator's commands on the secret store: rotate the KEK, rewrap secrets, move them to Vault."""
