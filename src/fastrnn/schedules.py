"""Learning-rate schedules: how an optimizer's `lr` changes while it runs.

A schedule sets ``optimizer.lr`` when it is made and again in each `step`. `per` says when that is
due, after every update or after every epoch; a `fastrnn.Trainer` with ``schedule=`` does it, and
keeps the schedule's state in its checkpoints. In a loop of your own, call `step` yourself.

The rate is a function of the number of steps taken, not of the previous rate (but for
`ReduceOnPlateau`): rounding does not add up, and a resumed run has the same rates, bit for bit.
"""

from __future__ import annotations

import math
import numbers
import operator

from .layers._checks import check_index, check_real, check_saved


class Schedule:
    """Base class. A subclass defines `_rate` of `steps` and `base_lr`.

    Parameters
    ----------
    optimizer : optimizer of `fastrnn.optim`
        Its `lr` is set at once.

    Attributes
    ----------
    base_lr : float
        The optimizer's rate before the schedule. Assigning rescales the whole schedule.
    steps : int
        How often `step` was called.
    per : {"update", "epoch"}
        What a step is.

    Raises
    ------
    TypeError
        ``optimizer: expected an optimizer of fastrnn.optim, got NoneType``.
    """

    per = "epoch"
    _saved: tuple[str, ...] = ("steps", "base_lr")

    def __init__(self, optimizer):
        self._base_lr = _rate_of(optimizer)
        self.optimizer = optimizer
        self.steps = 0
        self._set()

    @property
    def base_lr(self) -> float:
        """The optimizer's rate before the schedule; assigning rescales the whole schedule."""
        return self._base_lr

    @base_lr.setter
    def base_lr(self, value: float) -> None:
        self.optimizer.lr = value  # which checks it
        self._base_lr = self.optimizer.lr
        self._set()

    def step(self, loss: float | None = None) -> None:
        """Go on by one update or epoch and set the optimizer's rate.

        Parameters
        ----------
        loss : float, optional
            Read by `ReduceOnPlateau` alone.
        """
        self.steps += 1
        self._set()

    def _set(self) -> None:
        self.optimizer.lr = self._rate()

    def _rate(self) -> float:
        raise NotImplementedError

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs, as JSON can hold it; not the options."""
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in self._saved}}

    def load_state_dict(self, saved: dict) -> None:
        """Go on where the schedule that gave this state stood; it sets the optimizer's rate.

        Parameters
        ----------
        saved : dict
            What `state_dict` of a schedule of the same class returned.

        Raises
        ------
        ValueError
            ``schedule: expected the state of StepLR, got that of Constant``, ``schedule: missing
            key(s): steps``; nothing has changed.
        TypeError
            ``schedule: expected what state_dict() returned, got NoneType``, ``steps: expected a
            number, got str``.
        """
        check_saved("schedule", saved, ["class"])
        if saved["class"] != type(self).__name__:
            raise ValueError(
                f"schedule: expected the state of {type(self).__name__}, got that of "
                f"{saved['class']}"
            )
        check_saved("schedule", saved, self._saved)
        for name in self._saved:
            check_real(name, saved[name])
        check_index("steps", saved["steps"])
        _number("base_lr", saved["base_lr"], 0)
        kept = {name: getattr(self, name) for name in self._saved}
        try:
            self._take(saved)
        except BaseException:
            self._take(kept)
            raise

    def _take(self, saved) -> None:
        self._base_lr = saved["base_lr"]
        for name in self._saved:
            if name != "base_lr":  # its setter would rescale the rest
                setattr(self, name, saved[name])
        self._set()


class Constant(Schedule):
    """The optimizer's own rate, after a linear rise over the first updates.

    Parameters
    ----------
    optimizer : optimizer of `fastrnn.optim`
    warmup_steps : int, default 0
        W. Update k = 0, 1, ... < W has the rate ``base_lr * (k + 1) / (W + 1)``.

    Raises
    ------
    ValueError
        ``warmup_steps: expected an integer of at least 0, got -1``.

    Notes
    -----
    (O10) of docs/math.md.

    Examples
    --------
    >>> import fastrnn as fr
    >>> optimizer = fr.optim.SGD(fr.Linear(1, 1), lr=0.4)
    >>> schedule = fr.schedules.Constant(optimizer, warmup_steps=3)
    >>> rates = []
    >>> for update in range(5):
    ...     rates.append(round(optimizer.lr, 6))
    ...     schedule.step()
    >>> rates
    [0.1, 0.2, 0.3, 0.4, 0.4]
    """

    per = "update"

    def __init__(self, optimizer, warmup_steps=0):
        self.warmup_steps = _integer("warmup_steps", warmup_steps, 0)
        super().__init__(optimizer)

    def _rate(self):
        return self.base_lr * min(1.0, (self.steps + 1) / (self.warmup_steps + 1))


class CosineWithWarmup(Schedule):
    """A linear rise, then half a cosine down to `min_lr`, where it stays.

    Parameters
    ----------
    optimizer : optimizer of `fastrnn.optim`
    total_steps : int
        N, updates of the whole training.
    warmup_steps : int, default 0
        W < N, those of the rise.
    min_lr : float, default 0

    Raises
    ------
    ValueError
        ``warmup_steps: expected an integer from 0 to total_steps - 1 = 9, got 10``, and so on.

    Notes
    -----
    (O10), (O11) of docs/math.md: for update k = 0, 1, ... the rate is
    ``base_lr * (k + 1) / (W + 1)`` if k < W, and then
    ``min_lr + (base_lr - min_lr) * (1 + cos(pi * (k - W) / (N - W))) / 2``, which without warm-up
    is torch's CosineAnnealingLR (Loshchilov & Hutter 2017, without restarts).

    Examples
    --------
    >>> import fastrnn as fr
    >>> optimizer = fr.optim.Adam(fr.Linear(1, 1), lr=0.4)
    >>> schedule = fr.schedules.CosineWithWarmup(optimizer, total_steps=6, warmup_steps=1)
    >>> rates = []
    >>> for update in range(7):
    ...     rates.append(round(optimizer.lr, 3))
    ...     schedule.step()
    >>> rates
    [0.2, 0.4, 0.362, 0.262, 0.138, 0.038, 0.0]
    """

    per = "update"

    def __init__(self, optimizer, total_steps, warmup_steps=0, min_lr=0.0):
        self.total_steps = _integer("total_steps", total_steps, 1)
        self.warmup_steps = _integer("warmup_steps", warmup_steps, 0)
        if self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"warmup_steps: expected an integer from 0 to total_steps - 1 = "
                f"{self.total_steps - 1}, got {warmup_steps}"
            )
        self.min_lr = _number("min_lr", min_lr, 0)
        super().__init__(optimizer)

    def _rate(self):
        k, W, N = self.steps, self.warmup_steps, self.total_steps
        if k < W:
            return self.base_lr * (k + 1) / (W + 1)
        share = min(1.0, (k - W) / (N - W))
        return self.min_lr + (self.base_lr - self.min_lr) * (1 + math.cos(math.pi * share)) / 2


class StepLR(Schedule):
    """The rate times `gamma` after every `step_size` epochs.

    Parameters
    ----------
    optimizer : optimizer of `fastrnn.optim`
    step_size : int
    gamma : float, default 0.1

    Raises
    ------
    ValueError
        ``step_size: expected an integer of at least 1, got 0``, ``gamma: expected a number above
        0, got -1``.

    Notes
    -----
    (O12) of docs/math.md: ``base_lr * gamma ** (epoch // step_size)``, as torch's StepLR.

    Examples
    --------
    >>> import fastrnn as fr
    >>> optimizer = fr.optim.Adam(fr.Linear(1, 1), lr=0.4)
    >>> schedule = fr.schedules.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(optimizer.lr)
    ...     schedule.step()
    >>> rates
    [0.4, 0.4, 0.2, 0.2, 0.1]
    """

    def __init__(self, optimizer, step_size, gamma=0.1):
        self.step_size = _integer("step_size", step_size, 1)
        self.gamma = _number("gamma", gamma, 0, above=True)
        super().__init__(optimizer)

    def _rate(self):
        return self.base_lr * self.gamma ** (self.steps // self.step_size)


class ReduceOnPlateau(Schedule):
    """The rate times `factor` when the loss has not fallen for more than `patience` epochs.

    Parameters
    ----------
    optimizer : optimizer of `fastrnn.optim`
    factor : float in (0, 1), default 0.1
    patience : int, default 10
        Epochs without improvement that are borne; one more, and the rate is reduced.
    threshold : float, default 1e-4
        A loss is an improvement if it is below ``best * (1 - threshold)``, or below
        ``best * (1 + threshold)`` where best is negative.
    cooldown : int, default 0
        Epochs after a reduction in which none is counted.
    min_lr : float, default 0
        The rate does not go below.

    Raises
    ------
    ValueError
        ``factor: expected a number above 0 and below 1, got 1``, and so on.

    Notes
    -----
    (O13) of docs/math.md, torch's ReduceLROnPlateau in its default modes. In a `Trainer` the loss
    is that of the validation, or of the training if there is none.

    Examples
    --------
    >>> import fastrnn as fr
    >>> optimizer = fr.optim.Adam(fr.Linear(1, 1), lr=0.4)
    >>> schedule = fr.schedules.ReduceOnPlateau(optimizer, factor=0.5, patience=1)
    >>> rates = []
    >>> for loss in [2.0, 1.0, 1.0, 1.5, 0.9]:
    ...     schedule.step(loss)
    ...     rates.append(optimizer.lr)
    >>> rates
    [0.4, 0.4, 0.4, 0.2, 0.2]
    """

    _saved = ("steps", "base_lr", "lr", "best", "bad_epochs", "cooling")

    def __init__(self, optimizer, factor=0.1, patience=10, threshold=1e-4, cooldown=0, min_lr=0.0):
        self.factor = _number("factor", factor, 0, above=True, below=1)
        self.patience = _integer("patience", patience, 0)
        self.threshold = _number("threshold", threshold, 0)
        self.cooldown = _integer("cooldown", cooldown, 0)
        self.min_lr = _number("min_lr", min_lr, 0)
        self.best, self.bad_epochs, self.cooling = math.inf, 0, 0
        self.lr = _rate_of(optimizer)
        super().__init__(optimizer)

    @Schedule.base_lr.setter
    def base_lr(self, value):
        self.optimizer.lr = value
        value = self.optimizer.lr
        if value != self._base_lr:  # or rounding would change a rate that should stay
            self.lr = self.lr * value / self._base_lr if self._base_lr else value
        self._base_lr = value
        self._set()

    def _rate(self):
        return self.lr

    def step(self, loss=None):
        """Take an epoch's loss into account and set the optimizer's rate.

        Parameters
        ----------
        loss : float
            Infinity is a loss, too.

        Raises
        ------
        ValueError
            ``loss: expected a number, got None``, or NaN.
        TypeError
            ``loss: expected a number, got str``.
        """
        if loss is None or math.isnan(check_real("loss", loss)):
            raise ValueError(f"loss: expected a number, got {loss}")
        margin = -self.threshold if self.best > 0 else self.threshold
        if loss < self.best * (1 + margin):
            self.best, self.bad_epochs = float(loss), 0
        else:
            self.bad_epochs += 1
        if self.cooling:
            self.cooling -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            # Below 1e-8 a change is none (torch's eps).
            reduced = max(self.lr * self.factor, self.min_lr)
            if self.lr - reduced > 1e-8:
                self.lr = reduced
            self.cooling, self.bad_epochs = self.cooldown, 0
        super().step()


def _rate_of(optimizer) -> float:
    rate = getattr(optimizer, "lr", None)
    if not isinstance(rate, numbers.Real):
        kind = type(optimizer).__name__
        raise TypeError(f"optimizer: expected an optimizer of fastrnn.optim, got {kind}")
    return rate


def _integer(name, value, least):
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return number


def _number(name, value, least, *, above=False, below=math.inf):
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > least or (number == least and not above)) or not number < below:
        expected = f"{'above' if above else 'of at least'} {least}"
        expected += "" if math.isinf(below) else f" and below {below}"
        raise ValueError(f"{name}: expected a number {expected}, got {value!r}")
    return number
