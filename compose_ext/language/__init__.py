"""The compose language: `x-wireguard` and `links` become service labels."""
