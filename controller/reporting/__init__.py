"""Numbers of the controller and of the stack's etcd, for Prometheus to scrape."""
