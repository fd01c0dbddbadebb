"""One task's interface: desired against observed, and the changes that close the gap."""
