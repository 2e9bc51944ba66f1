"""Show the version, the instruction set in use, the threads and the BLAS provider."""

from __future__ import annotations

import json

EXAMPLE = "fastrnn info --json"


def configure(parser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args) -> int:
    """Print the configuration, and return the exit code."""
    from ..config import show_config

    config = show_config()
    if args.json:
        print(json.dumps(config))
    else:
        for name, value in config.items():
            print(f"{name:<14} {', '.join(value) if isinstance(value, list) else value}")
    return 0
