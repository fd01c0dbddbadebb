"""Walks along links and between nodes, for `docker linkwire explain` and `check --live`: records, and looks."""
