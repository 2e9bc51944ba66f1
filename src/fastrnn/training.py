"""The training loop: forward, loss, backward, clip, update, chunk after chunk, epoch after epoch.

There is one loop in the project, and it is this one. It knows nothing of text, files or terminals:
data comes as chunks (`fastrnn.data`), and whoever wants to print, draw or save hooks in as a
`Callback` (`fastrnn.callbacks`).

Truncated back-propagation through time: a sequence is cut into chunks, gradients stop at a chunk's
start, and the recurrent state is carried on as a plain value (Williams & Peng 1990; Sutskever 2013,
section 2.8.6). The state is zero at the start of every epoch.

Everything the next step depends on is in `Trainer.state_dict`: optimizer, carried state and
`Progress`. So a run that stops after any step and is resumed takes the same steps, bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from .clip import clip_grad_norm_
from .data import IGNORED
from .losses import cross_entropy


class NonFiniteError(FloatingPointError):
    """A loss or a gradient became NaN or infinite; the parameters were not updated with it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the step it came in was completed and everything was saved."""


@dataclass
class Progress:
    """How far a training has come.

    `epoch` epochs are complete, and of the current one `position` chunks, with the sum of their
    losses and the seconds they took; `step` updates in `seconds`, validation included; `best` is
    the lowest validation loss (training loss, if there is no validation).
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    epoch_tokens: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best: float = math.inf


class Callback:
    """What a `Trainer` calls while it runs; override what you need.

    Exceptions pass through `fit`. `close` is called in every case, the others not after a failure:
    so a callback that saves in `on_end` never overwrites a good file with a broken state.
    """

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
        Any layer or `Sequential`.
    optimizer : optimizer of `fastrnn.optim`
        Over the same model.
    loss : callable, default `fastrnn.cross_entropy`
        ``loss(y, target)`` returns the mean loss over counted targets and its gradient.
    clip : float, default 0
        Largest global norm of the gradient; 0 means no clipping.
    callbacks : iterable of Callback

    Attributes
    ----------
    progress : Progress
    state
        The recurrent state carried into the next chunk; None at the start of an epoch.

    Notes
    -----
    `data` is an object with ``epoch(number)``, which returns a list of chunks ``(x, target)`` and
    always the same list for the same number. If its ``carries_state`` is true, each chunk goes on
    where the previous one ended.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> from fastrnn.data import Streams
    >>> from fastrnn.training import Trainer
    >>> ids = np.tile(np.arange(5), 200)  # 0 1 2 3 4 0 1 ...
    >>> model = fr.Sequential(fr.GRU(5, 16, seed=0), fr.Linear(16, 5, seed=1))
    >>> trainer = Trainer(model, fr.optim.Adam(model, 0.02), clip=5)
    >>> rows = trainer.fit(Streams(ids, batch_size=4, seq_len=10), epochs=5)
    >>> [row["step"] for row in rows], rows[-1]["train_loss"] < 0.1
    ([24, 48, 72, 96, 120], True)
    """

    def __init__(self, model, optimizer, loss=cross_entropy, *, clip=0.0, callbacks=()):
        if not clip >= 0:
            raise ValueError(f"clip: expected a norm >= 0, got {clip}")
        self.model, self.optimizer, self.loss, self.clip = model, optimizer, loss, clip
        self.callbacks = list(callbacks)
        self.progress = Progress()
        self.state = None
        self._interrupted = False
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
            One row an epoch: epoch (from 1), step, train_loss (mean over the epoch's steps),
            val_loss (None without validation), tokens_per_s (training only), seconds (all so far),
            best (whether this epoch is the best so far).

        Raises
        ------
        NonFiniteError
            "step 7: the loss is nan", "step 7: the gradient of 0.weight_hh_l0 is not finite".
        Interrupted
            A KeyboardInterrupt, after Ctrl-C, once the current step is complete and the callbacks'
            `on_end` has run. A second Ctrl-C does not wait: it is a plain KeyboardInterrupt.
        ValueError
            If no limit is given, or `data` has no chunks.
        """
        if epochs is None and steps is None and seconds is None:
            raise ValueError("fit: expected a limit of epochs, steps or seconds, got none")
        self._limits = {"epochs": epochs, "steps": steps, "seconds": seconds}
        rows = []
        try:
            with self._deferred_interrupt():
                self._emit("on_begin")
                self._run(data, validation, rows)
                self._emit("on_end")
        finally:
            interrupted, self._interrupted = self._interrupted, False
            for callback in self.callbacks:
                callback.close()
        if interrupted:
            raise Interrupted
        return rows

    def evaluate(self, data) -> float | None:
        """Return the mean loss over all counted targets, without training.

        Parameters
        ----------
        data
            See Notes of the class; its epoch 0 is taken.

        Returns
        -------
        float, or None if Ctrl-C came in between (only during `fit`)
        """
        total, counted, state = 0.0, 0, None
        for x, target in data.epoch(0):
            y, state = self.model(x, state if data.carries_state else None)
            here = int(np.count_nonzero(target != IGNORED))
            if here:
                total += self.loss(y, target)[0] * here
                counted += here
            if self._interrupted:
                return None
        if not counted:
            raise ValueError("data: expected targets that count, got none")
        return total / counted

    def train_step(self, x, target) -> float:
        """Take one update from one chunk, starting from the carried state; return the loss."""
        self.model.zero_grad()
        y, state, tape = self.model.forward(x, self.state)
        loss, dy = self.loss(y, target)
        if not math.isfinite(loss):
            culprit = _first_non_finite(self.model.state_dict())
            because = f", because {culprit} is not finite" if culprit else ""
            raise NonFiniteError(f"step {self.progress.step + 1}: the loss is {loss}{because}")
        tape.backward(dy)
        self._clip()
        self.optimizer.step()
        self.state = state
        self.progress.step += 1
        return loss

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
        return {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on where the trainer that gave this `state_dict` stood."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(**saved["progress"])
        self.state = saved["state"]

    def _run(self, data, validation, rows) -> None:
        p = self.progress
        chunks = data.epoch(p.epoch)
        if not chunks:
            raise ValueError("data: expected at least one chunk, got none")
        self._chunks = len(chunks)
        self._started = time.perf_counter() - p.seconds
        first_step = p.step
        while not self._interrupted:
            if p.position == len(chunks):
                self._report(validation, rows, complete=True)
                chunks = data.epoch(p.epoch)
            elif self._limit_reached():
                if p.position and p.step > first_step:
                    self._report(validation, rows, complete=False)
                break
            else:
                self._advance(*chunks[p.position], data.carries_state)

    def _advance(self, x, target, carries_state) -> None:
        p = self.progress
        before = time.perf_counter()
        loss = self.train_step(x, target)
        now = time.perf_counter()
        if not carries_state:
            self.state = None
        p.position += 1
        p.epoch_loss += loss
        p.epoch_tokens += target.size
        p.epoch_seconds += now - before
        p.seconds = now - self._started
        self._emit("on_step", loss)

    def _report(self, validation, rows, complete) -> None:
        """Validate, close the epoch if it is complete, and hand a row to the callbacks.

        Ctrl-C during the validation leaves everything as it was: a resumed run validates again.
        """
        p = self.progress
        train_loss, val_loss = p.epoch_loss / p.position, None
        if validation is not None:
            val_loss = self.evaluate(validation)
            if val_loss is None:
                return
            if not math.isfinite(val_loss):
                raise NonFiniteError(f"step {p.step}: the validation loss is {val_loss}")
        p.seconds = time.perf_counter() - self._started
        row = {
            "epoch": p.epoch + 1,
            "step": p.step,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "tokens_per_s": p.epoch_tokens / p.epoch_seconds,
            "seconds": p.seconds,
            "best": (train_loss if val_loss is None else val_loss) < p.best,
        }
        if row["best"]:
            p.best = train_loss if val_loss is None else val_loss
        if complete:
            p.epoch += 1
            p.position = p.epoch_tokens = 0
            p.epoch_loss = p.epoch_seconds = 0.0
            self.state = None
        rows.append(row)
        self._emit("on_epoch", row)

    def _limit_reached(self) -> bool:
        p, limits = self.progress, self._limits
        now = {"epochs": p.epoch, "steps": p.step, "seconds": p.seconds}
        return any(limits[k] is not None and now[k] >= limits[k] for k in limits)

    def _clip(self) -> None:
        try:
            clip_grad_norm_(self.model, self.clip or math.inf, error_if_nonfinite=True)
        except FloatingPointError:
            raise NonFiniteError(
                f"step {self.progress.step + 1}: the gradient of "
                f"{_first_non_finite(self.model.grads)} is not finite"
            ) from None

    def _emit(self, event, *args) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    @contextmanager
    def _deferred_interrupt(self):
        """Turn the first Ctrl-C into a flag that the loop looks at after every step."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
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


def _first_non_finite(arrays) -> str | None:
    return next((name for name, a in arrays.items() if not np.isfinite(a).all()), None)
