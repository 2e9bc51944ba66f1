"""Types of command line values: they turn a bad value into argparse's one-line error."""

from __future__ import annotations

import argparse
import math


def integer(least: int):
    """Return a type for integers of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
        return value

    return parse


def number(least: float, *, above: bool = False, below: float = math.inf):
    """Return a type for finite numbers >= `least` (> `least` if `above`) and < `below`."""
    limits = f"{'>' if above else '>='} {least:g}" + (
        "" if math.isinf(below) else f" and < {below:g}"
    )

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (value > least or (value == least and not above)) or not value < below:
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {text!r}")
        return value

    return parse
