"""What controller and agent must agree on: records, keys, addresses, the link graph, the store."""
