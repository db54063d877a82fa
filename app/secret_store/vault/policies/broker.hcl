# broker: leases keys, but not webhook signing secrets. It hands out keys in wrapping tokens and cannot decrypt unwrapped.

path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["read"]
}

# Vault refuses a request without a wrapping TTL, or with one over five minutes.
path "${transit_mount}/decrypt/org.*" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "300s"
}

# When a key is destroyed, its unopened wrapping tokens are revoked. Vault cannot limit this permission to the
# service's own tokens: a role with it can revoke any token whose accessor it knows. The broker knows only
# accessors of leases.
path "auth/token/revoke-accessor" {
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
