"""Agent: one per node; makes the WireGuard interface of every local task match the records."""
