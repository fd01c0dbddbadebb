"""Lets `python -m compose_ext` do what `docker linkwire` does."""

import sys

from compose_ext.plugin import main

if __name__ == "__main__":
    sys.exit(main())
