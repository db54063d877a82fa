"""The secret store in HashiCorp Vault or OpenBao: transit encrypts, KV v2 stores the ciphertext."""
