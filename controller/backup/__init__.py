"""Restore of a backup: its comparison with what the store holds, and the writes, under the lead."""
