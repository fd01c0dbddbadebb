"""How much is tried: some tests have a short form for every run, and a long one for `make chaos`."""

from __future__ import annotations

import os

LONG = os.environ.get("LINKWIRE_CHAOS") == "long"
