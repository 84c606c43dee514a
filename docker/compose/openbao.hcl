# The provider of the key that seals the keys, for trying out: one node, no TLS, its own key in a file beside its data.
# On loopback of the network that it shares with the worker. It makes all that the worker needs at its first start.
ui           = false
api_addr     = "http://127.0.0.1:8200"
cluster_addr = "http://127.0.0.1:8201"

storage "raft" {
  path    = "/openbao/file"
  node_id = "compose"
}

listener "tcp" {
  address     = "127.0.0.1:8200"
  tls_disable = true
}

seal "static" {
  current_key_id = "compose-1"
  current_key    = "file:///openbao/file/unseal.key"
}

initialize "veilstream" {
  request "transit" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "key" {
    operation = "update"
    path      = "transit/keys/veilstream"
    data      = { type = "aes256-gcm96" }
  }
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/veilstream"
    data = {
      policy = <<EOT
path "transit/encrypt/veilstream" { capabilities = ["update"] }
path "transit/decrypt/veilstream" { capabilities = ["update"] }
path "transit/keys/veilstream/rotate" { capabilities = ["update"] }
EOT
    }
  }
  request "token" {
    operation = "update"
    path      = "auth/token/create"
    data = {
      id        = "veilstream-for-trying-out"
      policies  = ["veilstream"]
      no_parent = true
      period    = "768h"
    }
  }
}
