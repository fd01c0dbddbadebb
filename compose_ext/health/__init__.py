"""Health of the whole Swarm's links: what `docker linkwire status` and `check` judge."""
