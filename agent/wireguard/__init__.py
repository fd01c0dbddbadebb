"""WireGuard devices: the interface of a backend, and its two implementations."""
