"""`docker linkwire`: the CLI plugin, and the language of `x-wireguard` and `links` in compose files."""

__version__ = "0.1.0"
COMMIT = "$Format:%H$"
"""What it was built from: `git archive` and deploy/plugin/make.py put the commit in; a checkout has no value."""
