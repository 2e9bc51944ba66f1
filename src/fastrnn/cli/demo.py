"""Show one idea, from nothing to a result, and check it: the exit code is 1 if it fails."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext, redirect_stdout

from ..tasks import TASKS, ClaimError, load
from . import CommandError

EXAMPLE = "fastrnn demo char-lm"


def configure(parser) -> None:
    """Add the arguments of this command."""
    names = "\n".join(f"  {name:<10} {line}" for name, line in TASKS.items())
    parser.description += f"\ndemos:\n{names}"
    add = parser.add_argument
    add("name", nargs="?", default="char-lm", metavar="NAME", help="a demo from the list (char-lm)")
    add("--quick", action="store_true", help="a few seconds' worth of it")
    add("--json", action="store_true", help="print the figures as one JSON object, nothing else")
    add(
        "--progress",
        action="store_true",
        default=None,
        help="draw the progress bar even if the standard error stream is no terminal",
    )


def run(args) -> int:
    """Run the demo, and return the exit code."""
    try:
        with redirect_stdout(io.StringIO()) if args.json else nullcontext():
            figures = load(args.name).run(quick=args.quick, progress=args.progress)
    except (ClaimError, ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    if args.json:
        print(json.dumps({"demo": args.name} | figures))
    return 0
