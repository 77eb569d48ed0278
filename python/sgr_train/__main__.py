"""``python -m sgr_train``, the same as the console command ``sgr-train``."""

import sys

from .cli import main

sys.exit(main())
