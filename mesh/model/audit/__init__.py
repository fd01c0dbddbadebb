"""The audit log's stored form: pages of events in two rings, each page chained to the one before it."""
