"""Write text with a model that `fastrnn train` made."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from . import CommandError, reason
from .arguments import integer, number

EXAMPLE = 'fastrnn sample model.safetensors --prime "The " --length 1000 --temperature 0.7'


def configure(parser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a file written by `fastrnn train`")
    add("--prime", default="", metavar="TEXT", help="what the text goes on from (a line break)")
    add("--length", type=integer(0), default=500, metavar="N", help="characters to write (500)")
    add(
        "--temperature",
        type=number(0),
        default=0.8,
        metavar="X",
        help="below 1 safer, above 1 bolder, 0 always the likeliest (0.8)",
    )
    add(
        "--top-k",
        type=integer(0),
        default=0,
        metavar="K",
        help="only among the K likeliest characters; 0: among all (0)",
    )
    add(
        "--top-p",
        type=number(0, above=True, most=1),
        default=1.0,
        metavar="P",
        help="only among the likeliest that together reach this probability; 1: among all (1)",
    )
    add("--seed", type=integer(0), default=0, metavar="N", help="another text for another seed (0)")
    add("--json", action="store_true", help="print one JSON object instead of the text")


def run(args) -> int:
    """Write text, and return the exit code."""
    characters = generator(load_model(args.model), args)
    try:
        _write(characters, args)
    except FloatingPointError as error:  # weights that are not finite
        raise CommandError(f"{args.model}: {error}") from None
    return 0


def _write(characters, args):
    if args.json:
        started = time.perf_counter()
        text = "".join(characters)
        seconds = time.perf_counter() - started
        fields = {"prime": args.prime, "text": text, "seconds": seconds}
        print(json.dumps(fields | {"chars_per_s": len(text) / seconds}))
        return
    sys.stdout.write(args.prime)
    for character in characters:
        sys.stdout.write(character)
        if character == "\n":
            sys.stdout.flush()
    print()


def load_model(path):
    """Return the character model of a file, or say what the file is instead."""
    from ..checkpoint import load
    from ..models import CharLM

    try:
        model = load(path)
    except OSError as error:
        raise CommandError(reason(error)) from None
    except ValueError as error:
        stem, last, suffix = path.name.rpartition(".last")
        best = path.with_name(stem + suffix)
        hint = f"; the model is {best}" if last and best.exists() else ""
        raise CommandError(f"{error}{hint}") from None
    if not isinstance(model, CharLM):
        raise CommandError(
            f"{path}: expected a model written by `fastrnn train`, got a {type(model).__name__}"
        )
    return model


def generator(model, args):
    """Return the generator of characters that the arguments ask for."""
    try:
        return model.generate(
            args.prime,
            args.length,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
        )
    except ValueError as error:
        raise CommandError(f"--{error}") from None
