"""From records to each task's desired interface: links, peers, isolation, addresses. No I/O."""
