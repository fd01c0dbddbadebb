"""Identities of nodes and of etcd's users: attestations, certificates and their files."""
