"""The store: records in etcd, and a snapshot that follows them. The only I/O with etcd."""
