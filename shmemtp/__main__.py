"""`python -m shmemtp` is `shmemtp`."""

import sys

from .cli import main

sys.exit(main())
