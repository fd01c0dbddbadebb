"""Words of labels and compose files: links, ports, durations, parties. Pure."""
