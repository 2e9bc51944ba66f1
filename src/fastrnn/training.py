"""The training loop: forward, loss, backward, clip, update, chunk after chunk, epoch after epoch.

There is one loop in the project, and it is this one. It knows nothing of text, files or terminals:
data comes as chunks (`fastrnn.data`), the rate may follow a schedule (`fastrnn.schedules`), and
whoever wants to print, draw, save or stop hooks in as a `Callback` (`fastrnn.callbacks`).

Truncated back-propagation through time: a sequence is cut into chunks, gradients stop at a chunk's
start, and the recurrent state is carried on as a plain value (Williams & Peng 1990; Sutskever 2013,
section 2.8.6). The state is zero at the start of every epoch.

Everything the next step depends on is in `Trainer.state_dict`: optimizer, schedule, random state,
carried state, `Progress` and the state of the callbacks. So a run that stops after any step and is
resumed takes the same steps, bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

import numpy as np

from .clip import clip_grad_norm_
from .data import IGNORED
from .layers._checks import check_method, check_real, check_saved
from .losses import cross_entropy
from .module import Module
from .optim import Optimizer
from .progress import Progress, check_state, checked_history, checked_progress
from .schedules import Schedule


class NonFiniteError(FloatingPointError):
    """A loss or a gradient became NaN or infinite; the parameters were not updated with it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the step it came in was completed and everything was saved."""


class Callback:
    """What a `Trainer` calls while it runs; override what you need.

    Exceptions pass through `fit`. `close` is called in every case, the others not after a failure:
    so a callback that saves in `on_end` never overwrites a good file with a broken state.

    What a callback remembers from one step or epoch to the next belongs into `state_dict`, or a
    resumed run is not the unbroken one. It is kept under the name of the callback's class.

    Attributes
    ----------
    last : bool
        Whether to be called after all callbacks that are not `last`: for those that save, so that
        they save what the others have become in the same step.
    """

    last = False

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs: a tree of dicts, tuples, numbers, text, arrays.

        The keys of its dicts are text. It is asked for at any time, before `on_begin` too.
        """
        return {}

    def load_state_dict(self, saved: dict) -> None:
        """Go on where the callback that gave this `state_dict` stood; called before `on_begin`."""

    def on_begin(self, trainer: Trainer) -> None:
        """Before the first step of a `fit`."""

    def on_step(self, trainer: Trainer, loss: float) -> None:
        """After an update."""

    def on_epoch(self, trainer: Trainer, row: dict) -> None:
        """After an epoch and its validation, or after the part of it that a limit left."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, also after Ctrl-C."""

    def close(self) -> None:
        """At the very end, whatever happened."""


class Trainer:
    """Fit a model to data by truncated back-propagation through time.

    Parameters
    ----------
    model : Module
        Any layer or model: what has ``forward(x, state)`` and a tape.
    optimizer : optimizer of `fastrnn.optim`
        Over the same model, or some of its layers: then the others stay as they are.
    loss : callable, default `fastrnn.cross_entropy`
        ``loss(y, target)`` returns the mean loss over counted targets and its gradient.
    clip : float, default 0
        Largest global norm of the gradient; 0 means no clipping.
    callbacks : iterable of Callback, or None
    metrics : mapping of str to callable, or iterable of callables with names of their own, or None
        ``metric(y, target)`` returns a mean over the counted targets, e.g. `fastrnn.accuracy`.
        Reported for the validation data as ``val_NAME``.
    train_metrics : bool, default False
        Report the metrics of the training data, too, as ``train_NAME``: each measured in the step
        that trains on it, before its update.
    schedule : schedule of `fastrnn.schedules`, optional
        Over the same optimizer.

    Attributes
    ----------
    progress : Progress
    history : list of dict
        The rows of all epochs so far, also those before a resumption; see `fit`.
    state
        The recurrent state carried into the next chunk; None at the start of an epoch.
    stopped : str or None
        Why the last `fit` ended before its limits, if it did; see `stop`.

    Raises
    ------
    ValueError
        ``clip: expected a norm >= 0, got -1``, ``metrics: expected another name than 'loss'``,
        ``optimizer: expected one over parameters of the model, got Adam over those of another``.
    TypeError
        ``callbacks: expected Callback objects, got int``, ``schedule: expected one of
        fastrnn.schedules, got str``, and so on.

    Notes
    -----
    `data` is an object with ``epoch(number)``, which returns a sequence of chunks ``(x, target)``,
    or ``(x, target, lengths)`` for a model whose ``forward`` takes lengths, and always the same
    chunks for the same number. If its ``carries_state`` is true, each chunk goes on where the
    previous one ended. `fastrnn.Batches` is one, and those for text are in `fastrnn.data`.

    Integer targets of `fastrnn.data.IGNORED` are not counted; of any others all are. A chunk in
    which none counts makes no update: it only carries the state on.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> from fastrnn.data import Streams
    >>> ids = np.tile(np.arange(5), 200)  # 0 1 2 3 4 0 1 ...
    >>> model = fr.Sequential(fr.GRU(5, 16, seed=0), fr.Linear(16, 5, seed=1))
    >>> adam = fr.optim.Adam(model, 0.02)
    >>> trainer = fr.Trainer(model, adam, clip=5, metrics=[fr.accuracy])
    >>> rows = trainer.fit(Streams(ids, batch_size=4, seq_len=10), epochs=5)
    >>> [row["step"] for row in rows], rows[-1]["train_loss"] < 0.1
    ([24, 48, 72, 96, 120], True)
    >>> trainer.evaluate(Streams(ids[:100], 1, 10))["accuracy"]
    1.0
    >>> trainer.predict(ids[:8].reshape(8, 1)).argmax(2).ravel()
    array([1, 2, 3, 4, 0, 1, 2, 3])
    """

    def __init__(
        self,
        model,
        optimizer,
        loss=cross_entropy,
        *,
        clip=0.0,
        callbacks=(),
        metrics=(),
        train_metrics=False,
        schedule=None,
    ):
        if not check_real("clip", clip, "a norm >= 0") >= 0:
            raise ValueError(f"clip: expected a norm >= 0, got {clip}")
        for name, value, method in (("model", model, "forward"), ("optimizer", optimizer, "step")):
            check_method(name, value, method)
        _check_optimizer(model, optimizer)
        if not callable(loss):
            raise TypeError(f"loss: expected a callable, got {type(loss).__name__}")
        self.model, self.optimizer, self.loss, self.clip = model, optimizer, loss, clip
        self.callbacks = _checked_callbacks(callbacks)
        self.metrics, self.train_metrics = _named(metrics), bool(train_metrics)
        self.schedule = _checked_schedule(schedule, optimizer)
        self.progress = Progress()
        self.history = []
        self.state = None
        self.stopped = None
        self._interrupted = False
        self._callback_states = {}  # loaded, and not yet asked for by a callback
        self._ordered = []
        self._limits = {}
        self._chunks = 1
        self._started = 0.0

    def fit(self, data, validation=None, *, epochs=None, steps=None, seconds=None) -> list[dict]:
        """Train until the first of the limits is reached.

        Parameters
        ----------
        data, validation
            See Notes of the class. Without `validation`, the training loss decides what is best.
        epochs, steps, seconds : number, optional
            Limits, counted from the start of the training, not of this call: after a resumed run
            they mean the same as in an unbroken one. None: no such limit.

        Returns
        -------
        list of dict
            One row an epoch: epoch (from 1), step, lr (of the last update), train_loss (mean over
            the epoch's steps), val_loss (None without validation), the metrics, tokens_per_s
            (training only), seconds (all so far), best (whether this epoch is the best so far).

        Raises
        ------
        NonFiniteError
            "step 7: the loss is nan, because 0.weight_hh_l0 is not finite", "step 7: the gradient
            of 0.weight_hh_l0 is not finite". The update was not made.
        Interrupted
            A KeyboardInterrupt, after Ctrl-C, once the current step is complete and the callbacks'
            `on_end` has run. A second Ctrl-C does not wait: it is a plain KeyboardInterrupt.
        ValueError
            If no limit is given; ``data: expected at least one chunk, got none in epoch(0)``,
            ``data: expected targets that count, got none``; of a training that is resumed with
            other data, ``data: expected at least the 20 chunks that are done, got 7 in epoch(0)``.
        """
        if epochs is None and steps is None and seconds is None:
            raise ValueError("fit: expected a limit of epochs, steps or seconds, got none")
        limits = {"epochs": epochs, "steps": steps, "seconds": seconds}
        for name, value in limits.items():
            if value is not None and not check_real(name, value, "a number >= 0") >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {value}")
        _check_data("data", data)
        if validation is not None:
            _check_data("validation", validation)
        self._limits = limits
        self.stopped = None
        self._ordered = sorted(self.callbacks, key=lambda callback: callback.last)
        self._restore_callbacks()
        rows = []
        try:
            with self._deferred_interrupt():
                self._emit("on_begin")
                self._run(data, validation, rows)
                self._emit("on_end")
        finally:
            interrupted, self._interrupted = self._interrupted, False
            with ExitStack() as closing:  # all of them, even if one of them fails
                for callback in reversed(self.callbacks):
                    closing.callback(callback.close)
        if interrupted:
            raise Interrupted
        return rows

    def evaluate(self, data) -> dict[str, float]:
        """Return the mean loss and metrics over all counted targets, without training.

        Parameters
        ----------
        data
            See Notes of the class; its epoch 0 is taken.

        Returns
        -------
        dict
            ``loss``, and each metric by its name.

        Raises
        ------
        ValueError
            ``data: expected targets that count, got none``.
        """
        _check_data("data", data)
        return self._evaluate(data, lambda: False)

    def predict(self, data, lengths=None):
        """Return the model's outputs, without training.

        Parameters
        ----------
        data : ndarray, or as in the Notes of the class
            An array is the model's x. Of other data epoch 0 is taken; its targets are not read, and
            may be None: ``Batches(x, batch_size=64, shuffle=False)``.
        lengths : array-like of B integers, optional
            With an array only.

        Returns
        -------
        ndarray, or list of ndarray
            y; of other data one y a chunk, in their order.

        Raises
        ------
        ValueError
            ``lengths: expected None, since the chunks of data have their own``, and whatever the
            model says about its input.
        """
        if not hasattr(data, "epoch"):
            return self.model(data, None, **_keywords(lengths))[0]
        if lengths is not None:
            raise ValueError("lengths: expected None, since the chunks of data have their own")
        return [y for y, _ in self._outputs(data)]

    def stop(self, reason: str) -> None:
        """End the current `fit` after this step or epoch: for callbacks.

        Parameters
        ----------
        reason : str
            Kept in `stopped`.
        """
        self.stopped = reason

    def train_step(self, x, target, lengths=None) -> float:
        """Take one update from one chunk, starting from the carried state.

        Parameters
        ----------
        x
            As the model takes it.
        target
            As the loss takes it.
        lengths : array-like of B integers, optional
            For a model whose ``forward`` takes them.

        Returns
        -------
        float
            The loss, before the update; NaN if no target counts, and then there is no update.

        Raises
        ------
        NonFiniteError
            As `fit`: a loss or gradient that is not finite. The update was not made.
        """
        p = self.progress
        self.model.zero_grad()
        y, state, tape = self.model.forward(x, self.state, **_keywords(lengths))
        loss, dy = self.loss(y, target)
        loss = check_real("loss", loss)
        if not math.isfinite(loss):
            if not _counted(target):  # as in `evaluate`
                self.state = state
                return math.nan
            raise NonFiniteError(f"step {p.step + 1}: the loss is {loss}{self._because(x)}")
        tape.backward(dy)
        self._clip()
        self.optimizer.step()
        self.state = state
        p.lr = self.optimizer.lr
        p.step += 1
        if self.schedule is not None and self.schedule.per == "update":
            self.schedule.step()
        if self.train_metrics:
            counted = _counted(target)
            p.epoch_counted += counted
            for name, metric in self.metrics.items() if counted else ():
                total = p.epoch_metrics.get(name, 0.0) + float(metric(y, target)) * counted
                p.epoch_metrics[name] = total
        return loss

    def check_finite(self) -> None:
        """Raise `NonFiniteError` if a parameter is not finite: called before anything is saved.

        An update can do this although its gradient was finite, and the next loss tells too late for
        whoever saves in between.
        """
        culprit = _first_non_finite(self.model.state_dict())
        if culprit:
            raise NonFiniteError(f"step {self.progress.step}: {culprit} is not finite any more")

    @property
    def fraction(self) -> float:
        """How much of the nearest limit is used up, from 0 to 1."""
        p, limits = self.progress, self._limits
        done = {
            "epochs": p.epoch + p.position / self._chunks,
            "steps": p.step,
            "seconds": p.seconds,
        }
        return min(1.0, max(done[k] / limits[k] if limits[k] else 0.0 for k in limits))

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs to go on, besides the model's parameters."""
        states = {name: callback.state_dict() for name, callback in self._named_callbacks()}
        states |= self._callback_states
        return {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "random": _random_state(self.model),
            "state": self.state,
            "callbacks": {name: state for name, state in states.items() if state},
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on where the trainer that gave this `state_dict` stood.

        The states of callbacks are handed to those of the same class, now or at the next `fit`.

        Parameters
        ----------
        saved : dict
            Of a trainer with the same model, optimizer and kind of schedule.

        Raises
        ------
        ValueError
            ``schedule: expected the state of StepLR, got none``, ``trainer: missing key(s):
            progress``, or the optimizer's or a callback's; everything is then as before.
        TypeError
            ``trainer: expected what state_dict() returned, got NoneType``, ``progress: step:
            expected an integer >= 0, got str``, ``state: expected arrays in tuples, got str``.
        """
        check_saved("trainer", saved, ["optimizer", "progress", "state"])
        progress = checked_progress(saved["progress"])
        check_state(saved["state"])
        history = checked_history(saved.get("history", ()))
        check_saved("callbacks", saved.get("callbacks", {}))
        schedule = saved.get("schedule")
        if schedule is not None:
            check_saved("schedule", schedule, ["class"])
        if (schedule is None) != (self.schedule is None):
            mine = "no schedule" if self.schedule is None else type(self.schedule).__name__
            theirs = "none" if schedule is None else f"that of {schedule['class']}"
            raise ValueError(f"schedule: expected the state of {mine}, got {theirs}")
        kept = self.state_dict()
        try:
            self._load_parts(saved)
        except BaseException:
            self._load_parts(kept)
            raise
        self.progress, self.state, self.history = progress, saved["state"], history

    def _load_parts(self, saved) -> None:
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(saved["schedule"])
        if saved.get("random") is not None:
            self.model.load_random_state(saved["random"])
        self._callback_states = dict(saved.get("callbacks", {}))
        self._restore_callbacks()

    def _named_callbacks(self):
        """Yield callbacks with their names: EpochLog, EarlyStopping, EarlyStopping.1, ..."""
        seen = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            number = seen[kind] = seen.get(kind, -1) + 1
            yield (f"{kind}.{number}" if number else kind), callback

    def _restore_callbacks(self):
        for name, callback in self._named_callbacks():
            if name in self._callback_states:
                callback.load_state_dict(self._callback_states[name])
                del self._callback_states[name]  # not before: it may have been refused

    def _run(self, data, validation, rows) -> None:
        p = self.progress
        chunks = data.epoch(p.epoch)
        self._chunks = len(chunks) or 1
        self._started = time.perf_counter() - p.seconds
        first_step = p.step
        while not self._interrupted:
            if 0 < p.position == len(chunks):
                self._report(validation, rows, complete=True)
                chunks = data.epoch(p.epoch)
            elif self.stopped or self._limit_reached():
                if p.position > p.epoch_skipped and p.step > first_step:
                    self._report(validation, rows, complete=False)
                break
            elif p.position < len(chunks):
                self._advance(chunks[p.position], getattr(data, "carries_state", False))
            else:
                least = f"the {p.position} chunks that are done" if p.position else "one chunk"
                raise ValueError(
                    f"data: expected at least {least}, got {len(chunks) or 'none'} "
                    f"in epoch({p.epoch})"
                )

    def _advance(self, chunk, carries_state) -> None:
        p = self.progress
        before = time.perf_counter()
        loss = self.train_step(*chunk)
        now = time.perf_counter()
        if not carries_state:
            self.state = None
        p.position += 1
        p.epoch_tokens += np.size(chunk[1])
        p.epoch_seconds += now - before
        p.seconds = now - self._started
        if math.isnan(loss):  # no target of this chunk counts
            p.epoch_skipped += 1
        else:
            p.epoch_loss += loss
            self._emit("on_step", loss)

    def _report(self, validation, rows, complete) -> None:
        """Validate, close the epoch if it is complete, and hand a row to the callbacks.

        Ctrl-C during the validation leaves everything as it was: a resumed run validates again.
        """
        p = self.progress
        if p.position == p.epoch_skipped:
            raise ValueError("data: expected targets that count, got none")
        train_loss, scores = p.epoch_loss / (p.position - p.epoch_skipped), {"loss": None}
        if validation is not None:
            scores = self._evaluate(validation, lambda: self._interrupted)
            if scores is None:
                return
            if not math.isfinite(scores["loss"]):
                raise NonFiniteError(
                    f"step {p.step}: the validation loss is {scores['loss']}{self._because()}"
                )
        p.seconds = time.perf_counter() - self._started
        judged = train_loss if scores["loss"] is None else scores["loss"]
        trained = {"loss": train_loss} | {
            name: total / p.epoch_counted for name, total in p.epoch_metrics.items()
        }
        row = {
            "epoch": p.epoch + 1,
            "step": p.step,
            "lr": p.lr,
            **{f"train_{name}": value for name, value in trained.items()},
            **{f"val_{name}": value for name, value in scores.items()},
            "tokens_per_s": p.epoch_tokens / p.epoch_seconds,
            "seconds": p.seconds,
            # The mean training loss of a part of an epoch is not comparable to that of a whole one.
            "best": judged < p.best and (complete or validation is not None),
        }
        if row["best"]:
            p.best = judged
        if complete:
            p.epoch += 1
            p.position = p.epoch_tokens = p.epoch_counted = p.epoch_skipped = 0
            p.epoch_loss = p.epoch_seconds = 0.0
            p.epoch_metrics = {}
            self.state = None
            if self.schedule is not None and self.schedule.per == "epoch":
                self.schedule.step(judged)
        if self.history and self.history[-1]["epoch"] == row["epoch"]:
            self.history.pop()  # of the part of this epoch that an earlier limit had left
        self.history.append(row)
        rows.append(row)
        self._emit("on_epoch", row)

    def _evaluate(self, data, interrupted) -> dict | None:
        """Return mean loss and metrics by name; None as soon as `interrupted` returns true."""
        totals = dict.fromkeys(["loss", *self.metrics], 0.0)
        all_counted = 0
        for y, target in self._outputs(data):
            counted = _counted(target)
            if counted:
                totals["loss"] += check_real("loss", self.loss(y, target)[0]) * counted
                for name, metric in self.metrics.items():
                    totals[name] += float(metric(y, target)) * counted
                all_counted += counted
            if interrupted():
                return None
        if not all_counted:
            raise ValueError("data: expected targets that count, got none")
        return {name: total / all_counted for name, total in totals.items()}

    def _outputs(self, data):
        """Yield y and target of every chunk of epoch 0."""
        carries_state, state = getattr(data, "carries_state", False), None
        for x, target, *rest in data.epoch(0):
            y, state = self.model(x, state if carries_state else None, **_keywords(*rest))
            yield y, target

    def _limit_reached(self) -> bool:
        p, limits = self.progress, self._limits
        now = {"epochs": p.epoch, "steps": p.step, "seconds": p.seconds}
        return any(limits[k] is not None and now[k] >= limits[k] for k in limits)

    def _clip(self) -> None:
        try:
            clip_grad_norm_(self.model, self.clip or math.inf, error_if_nonfinite=True)
        except FloatingPointError as error:
            name = _first_non_finite(self.model.grads)
            what = f"the gradient of {name} is not finite" if name else str(error)
            raise NonFiniteError(f"step {self.progress.step + 1}: {what}") from None

    def _because(self, x=None) -> str:
        """Return why a loss is not finite, as far as one can see."""
        culprit = _first_non_finite(self.model.state_dict())
        inputs = map(np.asarray, x if isinstance(x, tuple) else (x,))
        if culprit is None and any(
            a.dtype.kind == "f" and not np.isfinite(a).all() for a in inputs
        ):
            culprit = "the input"
        return f", because {culprit} is not finite" if culprit else ""

    def _emit(self, event, *args) -> None:
        for callback in self._ordered:
            getattr(callback, event)(self, *args)

    @contextmanager
    def _deferred_interrupt(self):
        """Turn the first Ctrl-C into a flag that the loop looks at after every step."""
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job's: stays so
        # Python delivers signals to the main thread only.
        if ignored or threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(signum, frame):
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        previous = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous or signal.SIG_DFL)


def _check_optimizer(model, optimizer) -> None:
    """Refuse an optimizer that would leave this model as it is; one over a part of it is fine."""
    if isinstance(model, Module) and isinstance(optimizer, Optimizer) and optimizer._modules:
        parts = [module._flat for module in optimizer._modules]
        if not any(np.may_share_memory(model._flat, part) for part in parts):
            raise ValueError(
                "optimizer: expected one over parameters of the model, "
                f"got {type(optimizer).__name__} over those of another"
            )


def _checked_callbacks(callbacks) -> list:
    if callbacks is None:
        return []
    if not isinstance(callbacks, Iterable):
        kind = type(callbacks).__name__
        raise TypeError(f"callbacks: expected Callback objects in a list, got {kind}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else None
            raise TypeError(
                f"callbacks: expected Callback objects, got {kind or type(callback).__name__}"
            )
    return callbacks


def _checked_schedule(schedule, optimizer):
    if schedule is None:
        return None
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule: expected one of fastrnn.schedules, got {type(schedule).__name__}"
        )
    if schedule.optimizer is not optimizer:
        raise ValueError("schedule: expected one over the trainer's optimizer, got one of another")
    return schedule


def _check_data(name, data) -> None:
    if not callable(getattr(data, "epoch", None)):
        kind = type(data).__name__
        raise TypeError(f"{name}: expected chunks, such as fastrnn.Batches makes, got {kind}")


def _first_non_finite(arrays) -> str | None:
    return next((name for name, a in arrays.items() if not np.isfinite(a).all()), None)


def _keywords(lengths=None) -> dict:
    """Return the keyword arguments of a call; a model need not know of lengths if none come."""
    return {} if lengths is None else {"lengths": lengths}


def _counted(target) -> int:
    target = np.asarray(target)
    return (
        target.size if target.dtype.kind not in "iu" else int(np.count_nonzero(target != IGNORED))
    )


def _random_state(model):
    """Return what a model's random layers go on from, None if it has none."""
    state = getattr(model, "random_state", None)
    return state() if callable(state) else state


def _named(metrics) -> dict:
    """Return metrics by name, or explain why they cannot be told apart in a row."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        if isinstance(metrics, str) or not isinstance(metrics, Iterable):
            kind = type(metrics).__name__
            raise TypeError(f"metrics: expected callables by name or in a list, got {kind}")
        metrics = list(metrics)
        names = [getattr(metric, "__name__", repr(metric)) for metric in metrics]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"metrics: expected different names, got {name!r} twice")
        metrics = dict(zip(names, metrics, strict=True))
    if "loss" in metrics:
        raise ValueError("metrics: expected another name than 'loss'")
    for name, metric in metrics.items():
        if not callable(metric):
            raise TypeError(f"metrics: expected callables, got {name}: {type(metric).__name__}")
    return dict(metrics)
