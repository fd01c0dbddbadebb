"""Indexes over Swarm's lists and the store, and the impact of a change on them. No I/O."""
