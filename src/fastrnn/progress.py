"""Progress: how far a training has come; what `Trainer.load_state_dict` believes of a saved one.

Every check raises before anything is changed. Not here: the training (`training.py`), its file
(`resume.py`)."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field

import numpy as np

from .layers._checks import check_index, check_real, check_saved


@dataclass
class Progress:
    """How far a training has come.

    `epoch` epochs are complete, and of the current one `position` chunks, `epoch_skipped` of them
    without targets that count, with the sum of their losses, the sums of their metrics over
    `epoch_counted` targets and the seconds they took; `step` updates in `seconds`, validation
    included, the last one with the rate `lr`; `best` is the lowest validation loss (training loss,
    if there is no validation).
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    epoch_tokens: int = 0
    epoch_seconds: float = 0.0
    epoch_counted: int = 0
    epoch_skipped: int = 0
    epoch_metrics: dict = field(default_factory=dict)
    seconds: float = 0.0
    lr: float = 0.0
    best: float = math.inf


def checked_progress(saved) -> Progress:
    """Return a saved progress as one of its own; each field must be of its type."""
    check_saved("trainer: progress", saved)
    try:
        progress = Progress(**saved)
    except TypeError as error:  # it knows other names
        raise ValueError(f"trainer: progress: {error}") from None
    checks = {int: check_index, float: check_real, dict: check_saved}
    for name, default in vars(Progress()).items():
        checks[type(default)](f"progress: {name}", getattr(progress, name))
    progress.epoch_metrics = {  # a dict of its own: the training adds to it
        name: check_real(f"progress: epoch_metrics: {name}", total)
        for name, total in progress.epoch_metrics.items()
    }
    return progress


def check_state(state) -> None:
    """Refuse what no model can have returned; whether it is one of this model, forward checks."""
    if isinstance(state, (tuple, list, dict)):
        for part in state.values() if isinstance(state, dict) else state:
            check_state(part)
    elif state is not None and not isinstance(state, (np.ndarray, numbers.Number)):
        raise TypeError(f"state: expected arrays in tuples, got {type(state).__name__}")


def checked_history(rows) -> list[dict]:
    """Return copies of the rows of an epoch each."""
    if not isinstance(rows, (list, tuple)):
        raise TypeError(f"history: expected rows in a list, got {type(rows).__name__}")
    for i, row in enumerate(rows):
        check_saved(f"history: row {i}", row, ["epoch"])
    return [dict(row) for row in rows]
