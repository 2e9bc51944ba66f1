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


def number(least: float, *, above: bool = False, below: float = math.inf, most: float = math.inf):
    """Return a type for finite numbers >= `least` (> if `above`), < `below` and <= `most`."""
    limits = f"{'>' if above else '>='} {least:g}"
    limits += "" if math.isinf(below) else f" and < {below:g}"
    limits += "" if math.isinf(most) else f" and <= {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        enough = value > least or (value == least and not above)
        if not enough or not value < below or not value <= most:
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {text!r}")
        return value

    return parse
