"""What can be hooked into a `Trainer`: a progress bar, logs, early stopping and checkpoints.

The loop itself is in `fastrnn.training`; what a training's checkpoint holds, in `fastrnn.resume`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .checkpoint import check_writable, remove_temporaries, save, write_whole
from .layers._checks import check_index, check_real, check_saved
from .resume import last_path, pack_training, save_training
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


class FileLog(Callback):
    """A file with one row an epoch; what `CSVLog` and `JSONLinesLog` share.

    Parameters
    ----------
    path : str or Path
        Written from `Trainer.history` at the beginning, so a resumed training goes on with the rows
        that its checkpoint knows of: one that was written after the checkpoint, or half a line, is
        written again, and none is missing. What is no regular file (``/dev/stdout``) only gets the
        new rows.

    Raises
    ------
    OSError
        During `Trainer.fit`; names `path`.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._columns, self._rows = [], 0

    def on_begin(self, trainer):
        remove_temporaries(self.path)
        if self._is_regular():
            self._write_all(trainer.history)
        else:
            self._columns, self._rows = [], len(trainer.history)

    def on_epoch(self, trainer, row):
        # An epoch's last row takes the place of the one that a limit amid the epoch had left.
        follows = len(trainer.history) == self._rows + 1 and [*row] == self._columns
        if follows or not self._is_regular():
            with self._named():
                self._append(row)
        else:
            self._write_all(trainer.history)

    def _is_regular(self):
        return self.path.is_file() or not self.path.exists()

    def _append(self, row):
        with self.path.open("a", encoding="utf-8", newline="") as file:
            if [*row] != self._columns:
                self._columns = [*row]
                file.write(self._head())
            file.write(self._line(row))
            file.flush()
            if self._is_regular():
                os.fsync(file.fileno())
        self._rows += 1

    def _write_all(self, rows):
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        text = self._head() if rows else ""
        write_whole(self.path, (text + "".join(map(self._line, rows))).encode())
        self._rows = len(rows)

    @contextmanager
    def _named(self):
        try:
            yield
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(self.path)) from None

    def _head(self) -> str:
        return ""

    def _line(self, row) -> str:
        raise NotImplementedError


class CSVLog(FileLog):
    """Write the row of each epoch into a CSV file (RFC 4180, but lines end with a line feed).

    Parameters
    ----------
    path : str or Path
        An older file is replaced; that of a resumed training is continued, see `FileLog`.

    Notes
    -----
    The columns are the names in the rows of `Trainer.fit`; what a row lacks stays empty.

    Examples
    --------
    >>> from fastrnn.callbacks import CSVLog
    >>> log = CSVLog("training.csv")  # Trainer(..., callbacks=[log])
    """

    def _head(self):
        return self._as_csv(self._columns)

    def _line(self, row):
        return self._as_csv([row.get(name) for name in self._columns])

    @staticmethod
    def _as_csv(values):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


class JSONLinesLog(FileLog):
    """Write the row of each epoch as one JSON object a line; NaN and infinity become null.

    Parameters
    ----------
    path : str or Path
        An older file is replaced; that of a resumed training is continued, see `FileLog`.

    Examples
    --------
    >>> from fastrnn.callbacks import JSONLinesLog
    >>> log = JSONLinesLog("training.jsonl")  # Trainer(..., callbacks=[log])
    """

    def _line(self, row):
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        return json.dumps(known) + "\n"


class EarlyStopping(Callback):
    """End a training that has stopped to improve.

    Parameters
    ----------
    patience : int, default 5
        It ends when `monitor` has not improved for this many epochs in a row.
    min_delta : float, default 0
        By how much it has to be better than the best so far to be an improvement.
    monitor : str, default "val_loss"
        A name in the rows of `Trainer.fit`. Without validation, "val_loss" means "train_loss".
    mode : {"min", "max"}
        "max" where more is better: an accuracy.

    Raises
    ------
    ValueError
        ``patience: expected an integer of at least 1, got 0``, ``mode: expected 'min' or 'max', got
        'least'``; in `Trainer.fit`, ``monitor: expected one of epoch, step, ..., got 'loss'``.

    Notes
    -----
    What an epoch cut short by a limit measured is not judged. The model is that of the last epoch;
    `Checkpoints` keeps the best one. A training that was stopped stays so when it is resumed, until
    the patience is raised.

    Examples
    --------
    >>> from fastrnn.callbacks import EarlyStopping
    >>> stopping = EarlyStopping(patience=3)  # Trainer(..., callbacks=[stopping])
    """

    def __init__(self, patience=5, min_delta=0.0, monitor="val_loss", mode="min"):
        check_real("patience", patience, "an integer of at least 1")
        if not patience >= 1 or patience != patience // 1:
            raise ValueError(f"patience: expected an integer of at least 1, got {patience}")
        if not check_real("min_delta", min_delta, "a number of at least 0") >= 0:
            raise ValueError(f"min_delta: expected a number of at least 0, got {min_delta}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode: expected 'min' or 'max', got {mode!r}")
        self.patience, self.min_delta = int(patience), float(min_delta)
        self.monitor, self.mode = monitor, mode
        self.best, self.waited = None, 0

    def state_dict(self):
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, saved):
        check_saved("EarlyStopping", saved, ["best", "waited"])
        if saved["best"] is not None:
            check_real("EarlyStopping: best", saved["best"])
        check_index("EarlyStopping: waited", saved["waited"])
        self.best, self.waited = saved["best"], saved["waited"]

    def on_begin(self, trainer):
        self._judge(trainer)

    def on_epoch(self, trainer, row):
        if trainer.progress.position:
            return  # amid an epoch: in an unbroken training this row does not exist
        if self.monitor not in row:
            raise ValueError(f"monitor: expected one of {', '.join(row)}, got {self.monitor!r}")
        value = row[self.monitor]
        if value is None and self.monitor == "val_loss":
            value = row["train_loss"]
        sign = 1 if self.mode == "min" else -1
        better = self.best is None or sign * value < sign * self.best - self.min_delta
        if better and not math.isnan(value):  # nothing is better than NaN, so it is no best
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        self._judge(trainer)

    def _judge(self, trainer):
        if self.waited >= self.patience:
            epochs = "epoch" if self.waited == 1 else "epochs"
            trainer.stop(f"{self.monitor} has not improved for {self.waited} {epochs}")


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

    Raises
    ------
    OSError, TypeError
        During `Trainer.fit`, before its first step: ``[Errno 2] No such file or directory: PATH``,
        ``Net: no config() is defined, so it cannot be rebuilt``, ``options/a: expected what JSON
        can hold, got int64``; nothing is written then.

    Notes
    -----
    Both are written to a temporary file, flushed to the disk and renamed, so a file is at any
    moment either the old one or the new one; what a killed run left of such a file is removed when
    the next one begins. If a run ends before its first validation, the model is the latest one, so
    that there is one. A model with NaN or infinity in it is not saved, but a `NonFiniteError`.
    """

    last = True  # what is saved contains what the other callbacks have become

    def __init__(self, path, options: dict | None = None, every: float = 60.0):
        self.path, self.options, self.every = Path(path), options or {}, every
        self._saved_at = time.monotonic()

    def on_begin(self, trainer):
        for path in (self.path, last_path(self.path)):
            remove_temporaries(path)
            check_writable(path)
        pack_training(trainer, self.options)  # for its errors: before an epoch, not after it

    def on_step(self, trainer, loss):
        if time.monotonic() - self._saved_at > self.every:
            trainer.check_finite()
            self._save_last(trainer)

    def on_epoch(self, trainer, row):
        trainer.check_finite()
        if row["best"]:
            save(trainer.model, self.path)
        self._save_last(trainer)

    def on_end(self, trainer):
        trainer.check_finite()
        if math.isinf(trainer.progress.best):
            save(trainer.model, self.path)
        self._save_last(trainer)

    def _save_last(self, trainer):
        save_training(trainer, last_path(self.path), self.options)
        self._saved_at = time.monotonic()
