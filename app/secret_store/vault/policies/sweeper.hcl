# sweeper: reconciles interrupted writes, destroys and rewraps. It can neither encrypt nor decrypt.

# Tombstones and rewrapped ciphertext.
path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/destroy/orgs/+/creds/+" {
  capabilities = ["update"]
}

# Read the list of versions. No delete, because version numbers must never be used twice.
path "${kv_mount}/metadata/orgs/+/creds/+" {
  capabilities = ["read"]
}
path "${transit_mount}/rewrap/org.*" {
  capabilities = ["update"]
}

# The same for webhook signing secrets, under their own path.
path "${kv_mount}/data/orgs/+/webhooks/+" {
  capabilities = ["create", "update", "read"]
}
path "${kv_mount}/destroy/orgs/+/webhooks/+" {
  capabilities = ["update"]
}
path "${kv_mount}/metadata/orgs/+/webhooks/+" {
  capabilities = ["read"]
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
