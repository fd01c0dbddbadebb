"""Walks along links, for `docker linkwire explain` and `check --live`: their records, and looks at both ends."""
