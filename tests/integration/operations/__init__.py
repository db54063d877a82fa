"""Commands of an operator on the secret store."""
