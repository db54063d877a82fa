# prober: checks, relay and webhooks. Unseals keys to hand them to the provider, and signing secrets, within the same call.

path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["read"]
}
path "${transit_mount}/decrypt/org.*" {
  capabilities = ["update"]
}

# Signing secrets of webhooks: the same, in a folder of their own.
path "${kv_mount}/data/orgs/+/webhooks/+" {
  capabilities = ["read"]
}

# Readiness.
path "${transit_mount}/decrypt/ping" {
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
