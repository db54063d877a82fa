# prober: validation, relay and webhooks. Decrypts a key to send it to the provider within the same call, and signing
# secrets to sign deliveries.

path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["read"]
}
path "${transit_mount}/decrypt/org.*" {
  capabilities = ["update"]
}

# The same for webhook signing secrets, under their own path.
path "${kv_mount}/data/orgs/+/webhooks/+" {
  capabilities = ["read"]
}

# Readiness.
path "${transit_mount}/decrypt/ping" {
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
