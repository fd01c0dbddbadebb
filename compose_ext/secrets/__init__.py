"""Secrets and configs that Linkwire keeps in a Swarm."""
