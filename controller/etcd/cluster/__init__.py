"""Several members of the stack's etcd: how each starts, and how they become and stay the ones that are desired."""
