"""Watches Swarm on a manager, plans, and writes the records that agents follow."""
