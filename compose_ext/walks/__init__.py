"""Walks along links: Swarm's facts, the agent's steps, and the causes that they come to."""
