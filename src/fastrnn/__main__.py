"""``python -m fastrnn``: the same as the command ``fastrnn``."""

import sys

from .cli import main

sys.exit(main())
