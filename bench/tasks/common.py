"""What the task scripts share: options, data files, a clock of both kinds, result files.

What it is: everything around a task but the task. The training loop is `fastrnn.Trainer`.
What it is not: a task; those are the other files of this folder, each run by itself.

Two times are taken of a training, because machines are shared. Wall time is what the user waits,
with whatever else the machine was doing at that time. CPU time is that of all threads of this
process, waiting for each other (they spin) included; divided by the threads it is about what the
same cores would have needed, had nobody else used them.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import fastrnn as fr
from fastrnn.callbacks import Checkpoints, EpochLog, ProgressBar
from fastrnn.training import Callback

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import measure  # noqa: E402  timing and result files of all benchmarks, in the folder above

SHARED = HERE.parents[2] / "shared" / "data"
CELLS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}


def parser(doc, example, **defaults):
    """An argument parser with what every task has; `defaults` by the names of its options."""
    made = argparse.ArgumentParser(
        description=doc.strip(),
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = {
        "cells": (str, "which ones, of rnn, lstm and gru"),
        "hidden": (int, "hidden units a layer"),
        "layers": (int, "recurrent layers"),
        "dropout": (float, "probability of an output of the last recurrent layer to be dropped"),
        "input-dropout": (float, "probability of an input to be dropped"),
        "batch": (int, "sequences a batch"),
        "seq-len": (int, "steps a chunk"),
        "length": (int, "steps of a sequence"),
        "lr": (float, "learning rate of Adam at its highest"),
        "clip": (float, "largest global norm of the gradient; 0: no clipping"),
        "warmup": (int, "updates in which the rate rises"),
        "epochs": (int, "epochs, the rate falling to 0 along half a cosine"),
        "updates": (int, "updates an epoch"),
        "patience": (int, "epochs without a better validation loss after which it ends"),
        "seed": (int, "of weights, order and masks"),
        "target": (float, "what has to be reached; otherwise the exit code is 1"),
    }
    for name, value in defaults.items():
        kind, text = options[name.replace("_", "-")]
        flag = "--" + name.replace("_", "-")
        if isinstance(value, list):
            text, many = f"{text} (default {' '.join(map(str, value))})", {"nargs": "+"}
            many |= {"choices": list(CELLS)} if name == "cells" else {}
        else:
            text, many = f"{text} (default {value})", {}
        made.add_argument(flag, type=kind, default=value, help=text, **many)
    made.add_argument("--threads", type=int, default=None, help="(default: all cores)")
    made.add_argument("--name", help="of the result files (default: after the options)")
    made.add_argument("--no-write", action="store_true", help="print only, write no result files")
    made.add_argument("--progress", action="store_true", default=None, help="a bar also into files")
    return made


def set_threads(options):
    """Use the number of threads asked for, and note it in the options."""
    if options.threads is not None:
        fr.set_num_threads(options.threads)
    options.threads = fr.get_num_threads()


def data_file(path, what):
    """Return the path, or end with a message that says what to fetch."""
    if not path.is_file():
        raise SystemExit(f"{path} is absent: pass the path of {what}")
    return path


class CPUTime(Callback):
    """Adds ``cpu_seconds`` to each row: what all threads of this process used since the start."""

    def on_begin(self, trainer):
        self._started = time.process_time()

    def on_epoch(self, trainer, row):
        row["cpu_seconds"] = time.process_time() - self._started


def fit(trainer, data, validation, *, line, unit, options, best=False, **limits):
    """Train with a bar and a line an epoch; return the rows of `Trainer.fit`, with CPU time.

    Parameters
    ----------
    line : callable
        Makes a row into what is printed of it, besides number, speed and times.
    unit : str
        What a token is called.
    best : bool
        End with the model of the lowest validation loss instead of the last one.
    **limits
        Of `Trainer.fit`.
    """

    def whole_line(row):
        times = f"{row['seconds']:7.1f} s, {row['cpu_seconds']:7.1f} s of CPU"
        return f"epoch {row['epoch']:3}  {line(row)}  {row['tokens_per_s']:9,.0f} {unit}/s  {times}"

    bar = ProgressBar(show=options.progress, unit=unit)
    trainer.callbacks += [CPUTime(), EpochLog(bar.write, whole_line), bar]
    with tempfile.TemporaryDirectory() as folder:
        if best:
            trainer.callbacks.append(Checkpoints(Path(folder, "best.safetensors")))
        rows = trainer.fit(data, validation, **limits)
        if best:
            chosen = fr.load(Path(folder, "best.safetensors"))
            trainer.model.load_state_dict(chosen.state_dict())
    return rows


def cosine(optimizer, data, options):
    """The rate along half a cosine over all epochs, after a rise; see `--epochs` and `--warmup`."""
    total = options.epochs * len(data.epoch(0))
    return fr.schedules.CosineWithWarmup(optimizer, total, min(options.warmup, total - 1))


def report(name, title, header, rows, options, results, notes=""):
    """Print a table, write results/NAME.json and .md, and end with code 1 if a target was missed.

    Parameters
    ----------
    name : str
        Of the files, unless the options have one.
    title : str
        One line on what was run.
    header, rows
        Of the table; see `measure.table`.
    results : list of dict
        One a run: ``reached`` (bool), and whatever else is to be kept.
    notes : str
        Below the table.
    """
    env = measure.environment()
    env["threads"] = options.threads
    text = f"{measure.headline(env)}\n{title}\n\n{measure.table(header, rows)}"
    text += f"\n{notes}\n" if notes else ""
    print("\n" + text)
    if not options.no_write:
        settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(options).items()}
        for name_of_output in ("name", "no_write", "progress"):
            del settings[name_of_output]
        made = {"environment": env, "settings": settings, "results": results}
        print("written:", measure.write(options.name or name, made, text))
    missed = [result for result in results if not result["reached"]]
    if missed:
        raise SystemExit(f"target {options.target}: missed by {len(missed)} of {len(results)}")


def times(row, threads):
    """Wall and CPU seconds up to a row, and CPU seconds a thread, for the results."""
    cpu = row["cpu_seconds"]
    return {"seconds": row["seconds"], "cpu_seconds": cpu, "cpu_seconds_a_thread": cpu / threads}


def parameters(model):
    """How many numbers a model has learnt."""
    return sum(array.size for array in model.params.values())


def seeds(seed, count):
    """Seeds for up to four layers or data sets; two values of `seed` share none."""
    return range(4 * seed, 4 * seed + count)
