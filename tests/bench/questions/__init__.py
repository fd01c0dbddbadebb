"""Questions about all links of a Swarm: `ps`, `status`, `check --live` and the page's snapshot, as one table."""
