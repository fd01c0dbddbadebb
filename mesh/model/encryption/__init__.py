"""Encryption between nodes: its records, and the words of its steps."""
