"""Checks that layers share: each raises one message that names argument, expected and got."""

from __future__ import annotations

import numbers
import operator
import sys
import warnings
from collections.abc import Mapping

import numpy as np

from .. import _core


def check_positive(name: str, value) -> int:
    """Return `value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name}: expected 1 or more, got {number}")
    return number


def check_real(name: str, value, expected: str = "a number") -> float:
    """Return `value` as a float; text and None are no numbers, an array of no axes is one."""
    if type(value) is float or type(value) is int:  # asking numbers.Real is slow where it is rare
        return float(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return float(value)


def check_index(name: str, value, least: int = 0) -> int:
    """Return `value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name}: expected an integer >= {least}, got {kind}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    return number


def check_integer(name: str, value) -> int:
    """Return `value` as an int, whatever its sign."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def check_ignore_index(value) -> int:
    """Return the target that does not count as an int, which may be any of 64 bits."""
    number = check_integer("ignore_index", value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"ignore_index: expected an integer of 64 bits, got {number}")
    return number


def check_saved(name: str, saved, keys=()) -> None:
    """Refuse what is no result of a ``state_dict()``, or one without these keys."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"{name}: expected what state_dict() returned, got {type(saved).__name__}")
    missing = [key for key in keys if key not in saved]
    if missing:
        raise ValueError(f"{name}: missing key(s): {', '.join(missing)}")


def check_method(name: str, value, method: str) -> None:
    """Refuse an object without this method, and a class in place of its instance."""
    if isinstance(value, type):
        raise TypeError(
            f"{name}: expected an object with {method}(), got the class {value.__name__}"
        )
    if not callable(getattr(value, method, None)):
        kind = type(value).__name__
        raise TypeError(f"{name}: expected an object with {method}(), got {kind}")


def generator(seed) -> np.random.Generator:
    """Return the random generator of a `seed` as every constructor takes it."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"seed: expected None, an integer >= 0 or a numpy Generator, got {seed!r}"
        ) from None


def check_probability(name: str, value) -> float:
    """Return `value` as a float from 0 to 1."""
    check_real(name, value, "a probability from 0 to 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {value}")
    return float(value)


def warn(message: str) -> None:
    """Warn, from the first line that is not of this package."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fastrnn."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


class Checked:
    """An attribute that goes through ``check(name, value)`` whenever it is set."""

    def __init__(self, check):
        self._check = check

    def __set_name__(self, owner, name):
        self._name = name

    def __set__(self, instance, value):
        instance.__dict__[self._name] = self._check(self._name, value)


class Fixed:
    """An attribute that is set once: what has been built by it would not follow."""

    def __set_name__(self, owner, name):
        self._name = name

    def __set__(self, instance, value):
        kept = instance.__dict__.setdefault(self._name, value)
        if kept != value:
            raise AttributeError(
                f"{self._name}: fixed when it is made: expected {kept}, got {value}"
            )


def check_stateless(layer, state, name: str = "state") -> None:
    """Refuse a state for a layer that has none."""
    if state is not None:
        raise ValueError(f"{name}: {type(layer).__name__} keeps no state, expected None")


def check_gradient(dy, dtype, shape) -> np.ndarray:
    """Return `dy`, which must look like the y that forward returned; None stands for zeros."""
    if dy is None:
        return np.zeros(shape, dtype)
    dy = _core._as_array("dy", dy)
    if dy.dtype != dtype:
        raise TypeError(f"dy: expected {dtype}, got {dy.dtype}")
    if dy.shape != shape:
        raise ValueError(f"dy: expected shape {shape}, got {dy.shape}")
    return dy
