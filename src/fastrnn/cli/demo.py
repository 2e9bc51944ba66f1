"""Show one idea, from nothing to a result, and check it: the exit code is 1 if it fails.

Without a name, list the demos.
"""

from __future__ import annotations

import importlib.util
import io
import json
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from ..tasks import TASKS, ClaimError, load
from ..tasks.drawing import SUFFIXES, draw
from . import CommandError

EXAMPLE = "fastrnn demo char-lm"


def configure(parser) -> None:
    """Add the arguments of this command."""
    parser.description += f"\ndemos:\n{_listed()}"
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a demo from the list")
    add("--quick", action="store_true", help="a few seconds' worth of it")
    add("--plot", metavar="FILE", type=Path, help="draw it: .svg or .png (needs matplotlib)")
    add("--json", action="store_true", help="print the figures as one JSON object, nothing else")
    add(
        "--progress",
        action="store_true",
        default=None,
        help="draw the progress bar even if the standard error stream is no terminal",
    )


def run(args) -> int:
    """List the demos or run one, and return the exit code."""
    if args.name is None:
        if args.plot:
            raise CommandError("--plot: expected a demo's NAME with it")
        _list(args.json)
        return 0
    if args.plot:
        _check_picture(args.plot)
    try:
        task = load(args.name)
        with redirect_stdout(io.StringIO()) if args.json else nullcontext():
            figures = task.run(quick=args.quick, progress=args.progress)
    except (ClaimError, ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    if args.json:
        print(json.dumps({"demo": args.name} | figures))
    if args.plot:
        _draw(task, figures, args.plot)
    return 0


def _listed():
    width = max(map(len, TASKS))
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in TASKS.items())


def _list(as_json):
    if as_json:
        for name, line in TASKS.items():
            print(json.dumps({"demo": name, "says": line}))
    else:
        print(f"{_listed()}\n\n`fastrnn demo NAME` runs one, `--plot FILE.svg` draws it.")


def _check_picture(path):
    """Refuse a picture that cannot be drawn before two minutes are spent on it."""
    if path.suffix not in SUFFIXES:
        raise CommandError(f"--plot: expected a file ending in {' or '.join(SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise CommandError(f"--plot: no folder {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError("--plot: needs matplotlib (pip install matplotlib)")


def _draw(task, figures, path):
    try:
        draw(task, figures, path)
    except OSError as error:
        raise CommandError(f"--plot: {path}: {error.strerror}") from None
