"""The ideas that `fastrnn demo NAME` shows: one short module each.

A task's module has

    run(quick=False, progress=None)   does its work, prints what it sees, proves what it says with
                                      `check`, and returns its figures by name: numbers, texts and
                                      lists of them, as JSON can hold them. `quick` is a few
                                      seconds' worth, for tests. Where chance plays a part there is
                                      a third argument, `seed`: the claims do not hang on it.
                                      It raises `ClaimError` if something did not come true.
    picture(figures)                  draws these figures; returns a matplotlib Figure.
"""

from __future__ import annotations

import importlib

TASKS = {
    "step": "one step: s = tanh(W s + U x), y = V s; the same input, another output",
    "char-lm": "a character model learns a text's words and layout, from nothing, in a minute",
    "bptt": "the gradient through time as a sum of terms, one by one, equals BPTT",
    "arrangements": "one or many in, one or many out: digits, their names, dates in words to ISO",
    "simple-rnn": "s = sigma(U x + W s), y = sigma(V s): learns to add; tanh is faster",
    "vanishing": "a product of Jacobians: it vanishes if c < 1, may explode if c > 1; measured",
    "clipping": "a run that explodes; by value, norm, inside BPTT or Jacobian range it learns",
    "truncated": "looking back k steps is enough for a memory of k steps, and for no longer one",
    "lstm": "gates i, f, g, o on a real text, equal to the equations; beside RNN and GRU",
    "gru": "gates r, z, n on a real text; most of LSTM with three quarters of the products",
    "echo": "of five numbers the third comes back: LSTM(25), to 100% in a quarter of a second",
    "memory": "adding and copying at growing lengths: where RNN, LSTM and GRU forget",
}


class ClaimError(AssertionError):
    """What a task claims did not come true."""


def check(claim: str, holds: bool) -> None:
    """Print a claim that holds.

    Parameters
    ----------
    claim : str
    holds : bool

    Raises
    ------
    ClaimError
        ``did not come true: CLAIM``, if it does not hold.
    """
    if not holds:
        raise ClaimError(f"did not come true: {claim}")
    print(f"checked: {claim}")


def load(name: str):
    """Return the module of a task.

    Parameters
    ----------
    name : str
        A key of `TASKS`.

    Returns
    -------
    module
        With ``run`` and ``picture``.

    Raises
    ------
    ValueError
        If there is no such task; the message lists those that there are.
    """
    if name not in TASKS:
        raise ValueError(f"demo: expected one of {', '.join(TASKS)}, got {name!r}")
    return importlib.import_module(f".{name.replace('-', '_')}", __name__)
