"""Connectivity test: a short-lived stack of its own, which shows that links carry traffic, and nothing else does."""
