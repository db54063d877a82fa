# writer: the API. Seals keys and writes ciphertext; it cannot unseal what it wrote.
# In all five files kv_mount and transit_mount stand for the mounts: byok and byok-transit by default.

# Only update: create would let it make keys of its own choice.
path "${transit_mount}/encrypt/org.*" {
  capabilities = ["update"]
}
path "${transit_mount}/hmac/fingerprint" {
  capabilities = ["update"]
}

# Ciphertext. It reads back whose write took a number.
path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/metadata/orgs/+/creds/+" {
  capabilities = ["read"]
}

# Signing secrets of webhooks: the same, in a folder of their own.
path "${kv_mount}/data/orgs/+/webhooks/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/metadata/orgs/+/webhooks/+" {
  capabilities = ["read"]
}

# Readiness.
path "${kv_mount}/config" {
  capabilities = ["read"]
}
path "${transit_mount}/encrypt/ping" {
  capabilities = ["update"]
}

# Its own token: to see whether it lives, to renew it, to give it back.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
