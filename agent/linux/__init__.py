"""The kernel's interfaces that the agent uses: netlink, namespaces, sysctl, hosts files."""
