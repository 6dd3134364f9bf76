"""``python -m rustloss``: the command line."""

import sys

from rustloss.cli import main

sys.exit(main())
