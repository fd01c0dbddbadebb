"""Processes of wireguard-go, and the holder: a container of a node in which they outlive the agent's."""
