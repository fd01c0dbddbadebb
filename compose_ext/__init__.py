"""The language: `x-wireguard` and `links` in compose files become service labels."""
