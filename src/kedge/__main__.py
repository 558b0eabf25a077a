"""`python -m kedge` is the command line."""

import sys

from kedge.cli import main

sys.exit(main())
