"""Docker's API on a manager, and the lists that are kept of what it says."""
