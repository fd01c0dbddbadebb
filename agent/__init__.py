"""One per node: makes the WireGuard device in every local task match the records."""
