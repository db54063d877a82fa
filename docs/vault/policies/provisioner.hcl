# provisioner: makes an organization's transit key on its first write, gives it a new version, and nothing else.
# One segment after keys/ and no more: /config and /export are other paths. A key that is there stays as it is.

path "${transit_mount}/keys/+" {
  capabilities        = ["create", "update"]
  required_parameters = ["type", "derived"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96"]
    "derived" = [true]
  }
}

# For `rewrap-secrets --rotate-keys`. Older versions of the key still open what they sealed.
path "${transit_mount}/keys/+/rotate" {
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
