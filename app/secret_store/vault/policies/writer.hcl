# writer: the API. Encrypts keys and writes ciphertext. It cannot decrypt what it wrote.
# In all five files kv_mount and transit_mount are replaced by the mounts, by default byok and byok-transit.

# Only update: with create, the writer could create transit keys with options of its choice.
path "${transit_mount}/encrypt/org.*" {
  capabilities = ["update"]
}
path "${transit_mount}/hmac/fingerprint" {
  capabilities = ["update"]
}

# Ciphertext. Read, to find out which write took a number.
path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/metadata/orgs/+/creds/+" {
  capabilities = ["read"]
}

# The same for webhook signing secrets, under their own path.
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

# Its own token: look up, renew, revoke.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
