"""Checks that layers share: each raises one message that names argument, expected and got."""

from __future__ import annotations

import operator

import numpy as np


def check_positive(name: str, value) -> int:
    """Return `value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name}: expected 1 or more, got {number}")
    return number


def check_stateless(layer, state, name: str = "state") -> None:
    """Refuse a state for a layer that has none."""
    if state is not None:
        raise ValueError(f"{name}: {type(layer).__name__} keeps no state, expected None")


def check_gradient(dy, dtype, shape) -> np.ndarray:
    """Return `dy`, which must look like the y that forward returned."""
    dy = np.asarray(dy)
    if dy.dtype != dtype:
        raise TypeError(f"dy: expected {dtype}, got {dy.dtype}")
    if dy.shape != shape:
        raise ValueError(f"dy: expected shape {shape}, got {dy.shape}")
    return dy
