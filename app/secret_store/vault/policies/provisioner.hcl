# provisioner: creates an organization's transit key at its first write and rotates it. It can do nothing more.
# The + matches one path segment, so keys/<name>/config and the export paths stay denied. Creating an existing key
# does not change it.

path "${transit_mount}/keys/+" {
  capabilities        = ["create", "update"]
  required_parameters = ["type", "derived"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96"]
    "derived" = [true]
  }
}

# For `rewrap-secrets --rotate-keys`. Older versions of the key can still decrypt.
path "${transit_mount}/keys/+/rotate" {
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
