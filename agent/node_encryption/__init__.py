"""Node encryption: one WireGuard device a node, under the overlays of all stacks."""
