"""Shared core of controller and agent: records, keys, addresses, the link graph and the store."""
