"""The language: `x-wireguard` and `links` in compose files become service labels."""

__version__ = "0.1.0"
