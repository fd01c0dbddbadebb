"""`python -m compose_ext`: the same program as `docker linkwire`."""

import sys

from compose_ext.plugin import main

if __name__ == "__main__":
    sys.exit(main())
