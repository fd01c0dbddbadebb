"""The stack's etcd: its server, accounts, roles, space and upkeep."""
