"""Files by which a node remembers: verified state, keys, identity, recovery."""
