"""A Swarm, asked and changed through the docker program."""
