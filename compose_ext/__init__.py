"""`docker linkwire`: the CLI plugin, and the language of `x-wireguard` and `links` in compose files."""

__version__ = "0.1.0"
