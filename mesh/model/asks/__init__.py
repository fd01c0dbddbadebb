"""Questions between agents, as they lie in etcd."""
