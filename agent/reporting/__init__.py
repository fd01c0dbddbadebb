"""Status of a node, its tasks and links: written to the store, to metrics and to `ps`."""
