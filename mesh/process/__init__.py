"""Daemon plumbing that controller and agent share: options, logs, hardening, wake-ups."""
