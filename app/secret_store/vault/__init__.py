"""HashiCorp Vault or OpenBao: transit encrypts, KV v2 keeps."""
