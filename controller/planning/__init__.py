"""The plan: steps that make the store say what Swarm says. No I/O."""
