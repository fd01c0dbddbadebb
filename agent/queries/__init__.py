"""Queries to the running agent: a socket in its container, which `docker exec` only carries."""
