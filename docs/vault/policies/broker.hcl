# broker: leases of keys, not of what webhooks are signed with. Hands keys over in wrapping tokens and cannot open one for itself unwrapped.

path "${kv_mount}/data/orgs/+/creds/+" {
  capabilities = ["read"]
}

# Without a wrapping TTL, or with one over five minutes, Vault refuses.
path "${transit_mount}/decrypt/org.*" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "300s"
}

# A destroyed key takes its unopened wrapping tokens along. Vault cannot limit this to tokens of our own:
# whoever knows an accessor can end that token. Accessors of leases are all that the broker is told.
path "auth/token/revoke-accessor" {
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
