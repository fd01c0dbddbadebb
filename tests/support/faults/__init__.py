"""Faults of adapters in processes under test."""
