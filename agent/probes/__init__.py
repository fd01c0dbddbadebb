"""Probes of one link, for `docker linkwire explain`: from inside a task's namespace, and between two nodes."""
