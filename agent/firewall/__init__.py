"""nftables: rule sets of tasks and of the node, and the program that applies them."""
