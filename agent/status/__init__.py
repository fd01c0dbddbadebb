"""Links and nodes, described for `ps`, `status` and `node ls` from what the store says and what was read."""
