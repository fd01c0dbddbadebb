"""Backups of the store: what is in one, and the files of the keys that it is sealed to."""
