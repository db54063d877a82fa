# sweeper: finishes what a crash interrupted, destroys and rewraps. It can neither seal nor unseal.

# Tombstones and rewrapped ciphertext.
path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/destroy/orgs/+/creds/+" {
  capabilities = ["update"]
}

# Which versions there are. No delete: numbers must never be given again.
path "${kv_mount}/metadata/orgs/+/creds/+" {
  capabilities = ["read"]
}
path "${transit_mount}/rewrap/org.*" {
  capabilities = ["update"]
}

# Signing secrets of webhooks: the same, in a folder of their own.
path "${kv_mount}/data/orgs/+/webhooks/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/destroy/orgs/+/webhooks/+" {
  capabilities = ["update"]
}
path "${kv_mount}/metadata/orgs/+/webhooks/+" {
  capabilities = ["read"]
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
