"""What can be hooked into a `Trainer`: a progress bar and checkpoints.

The loop itself is in `fastrnn.training`; what a training's checkpoint holds, in `fastrnn.resume`.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

from .checkpoint import save
from .resume import last_path, save_training
from .training import Callback


class ProgressBar(Callback):
    """A bar on the standard error stream: share done, time left, loss, tokens a second.

    Parameters
    ----------
    show : bool or None
        None: only if the standard error stream is a terminal.
    unit : str
        What a token is called, in "212,000 chars/s".
    every : float
        Seconds between two pictures; a step may take 100 microseconds, so not one after each.
    """

    def __init__(self, show: bool | None = None, unit: str = "tokens", every: float = 0.1):
        self.show, self.unit, self.every = show, unit, every
        self._bar = None

    def on_begin(self, trainer):
        from tqdm import tqdm

        self._bar = tqdm(
            total=1.0,
            initial=trainer.fraction,
            disable=None if self.show is None else not self.show,
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )
        self._drawn = time.perf_counter()
        self._loss = math.nan

    def on_step(self, trainer, loss):
        if self._bar.disable:
            return
        # A memory of about a hundred steps: single losses jump about.
        self._loss = loss if math.isnan(self._loss) else self._loss + 0.01 * (loss - self._loss)
        now = time.perf_counter()
        if now - self._drawn >= self.every:
            self._drawn = now
            p = trainer.progress
            speed = p.epoch_tokens / p.epoch_seconds
            self._bar.set_postfix_str(
                f"epoch {p.epoch + 1}, step {p.step:,}, loss {self._loss:.3f}, "
                f"{speed:,.0f} {self.unit}/s",
                refresh=False,
            )
            self._bar.update(trainer.fraction - self._bar.n)

    def write(self, line: str) -> None:
        """Print a line on the standard output without tearing the bar."""
        if self._bar is None or self._bar.disable:
            print(line, flush=True)
        else:
            with self._bar.external_write_mode(file=sys.stdout):
                print(line, flush=True)

    def close(self):
        if self._bar is not None:
            self._bar.close()


class EpochLog(Callback):
    """Hand one line per epoch to a function.

    Parameters
    ----------
    write : callable
        Takes a line, e.g. `print`, or `ProgressBar.write` where there is a bar.
    line : callable
        Turns a row of `Trainer.fit` into a line, e.g. `json.dumps`.
    """

    def __init__(self, write, line):
        self.write, self.line = write, line

    def on_epoch(self, trainer, row):
        self.write(self.line(row))


class Checkpoints(Callback):
    """Keep two files: the best model so far, and everything needed to resume.

    Parameters
    ----------
    path : str or Path
        The best model, as `fastrnn.save` writes it. Beside it, `fastrnn.resume.last_path` of it.
    options : dict
        Stored in the second file, for whoever resumes.
    every : float
        Seconds between two writes of the second file within an epoch.

    Notes
    -----
    Both are written to a temporary file, flushed to the disk and renamed, so a file is at any
    moment either the old one or the new one. If a run ends before its first validation, the model
    is the latest one, so that there is one.
    """

    def __init__(self, path, options: dict | None = None, every: float = 60.0):
        self.path, self.options, self.every = Path(path), options or {}, every
        self._saved_at = time.monotonic()

    def on_step(self, trainer, loss):
        if time.monotonic() - self._saved_at > self.every:
            self._save_last(trainer)

    def on_epoch(self, trainer, row):
        if row["best"]:
            save(trainer.model, self.path)
        self._save_last(trainer)

    def on_end(self, trainer):
        if math.isinf(trainer.progress.best):
            save(trainer.model, self.path)
        self._save_last(trainer)

    def _save_last(self, trainer):
        save_training(trainer, last_path(self.path), self.options)
        self._saved_at = time.monotonic()
