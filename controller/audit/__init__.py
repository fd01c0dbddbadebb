"""The audit log's writer: which events a transaction means, and the pages that are written with it."""
