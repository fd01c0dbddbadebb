"""Questions between agents, through etcd: each node answers for its own tasks alone."""
