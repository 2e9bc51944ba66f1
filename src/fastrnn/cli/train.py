"""Train a character model on a text (without one: on the standard library's documentation text).

The text's end is kept for validation. The best model so far is kept in --out, and everything needed
to go on in a second file beside it (model.last.safetensors). Ctrl-C saves and stops; --resume goes
on from there, or from the last save of a run that was killed, to exactly the result of an unbroken
run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from . import CommandError, reason
from .arguments import integer, number

EXAMPLE = (
    "fastrnn train book.txt --hidden 256 --layers 2 --epochs 20 --schedule cosine --warmup 100 "
    "--patience 3 --log book.csv --out book.safetensors"
)

DEFAULTS = {
    "cell": "lstm",
    "hidden": 128,
    "layers": 1,
    "embed": 0,
    "dropout": 0.0,
    "seq_len": 50,
    "batch_size": 50,
    "optimizer": "adam",
    "lr": 2e-3,
    "clip": 5.0,
    "schedule": "constant",
    "warmup": 0,
    "decay": 0.5,
    "decay_epochs": 2,
    "patience": 0,
    "seed": 0,
    "val_fraction": 0.1,
    "log": None,
    "save_every": 60.0,
}
DEFAULT_EPOCHS = 20
LIMITS = ("epochs", "steps", "minutes")
# In a resumed run; anything else would make it another training.
MAY_CHANGE = ("lr", "clip", "patience", "log", "save_every")
SUFFIXES = (".csv", ".jsonl")


def configure(parser) -> None:
    """Add the arguments of this command."""
    # Defaults come later, from DEFAULTS: a resumed run takes what is not given from its checkpoint.
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", type=Path, help="a text file in UTF-8")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("model.safetensors"),
        help="where the best model goes (model.safetensors)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the training of --out; options not given stay as they were",
    )

    add = parser.add_argument_group("model").add_argument
    add("--cell", choices=("rnn", "lstm", "gru"), help="kind of recurrent layer (lstm)")
    add("--hidden", type=integer(1), metavar="H", help="units of a layer (128)")
    add("--layers", type=integer(1), metavar="L", help="recurrent layers (1)")
    add("--embed", type=integer(0), metavar="D", help="width of an embedding; 0: one-hot (0)")
    add("--dropout", type=number(0, below=1), metavar="P", help="between layers (0)")
    add("--seed", type=integer(0), metavar="N", help="of all that is random (0)")

    add = parser.add_argument_group("data").add_argument
    add("--seq-len", type=integer(1), metavar="T", help="steps that gradients look back (50)")
    add("--batch-size", type=integer(1), metavar="B", help="parallel streams of text (50)")
    add(
        "--val-fraction",
        type=number(0, below=1),
        metavar="F",
        help="share of the text, at its end, to validate on (0.1)",
    )

    add = parser.add_argument_group("optimization").add_argument
    add("--optimizer", choices=("adam", "sgd", "rmsprop", "adagrad", "adamw"), help="(adam)")
    add("--lr", type=number(0, above=True), metavar="RATE", help="learning rate (0.002)")
    add("--clip", type=number(0), metavar="NORM", help="largest gradient norm; 0: any (5)")
    add(
        "--schedule",
        choices=("constant", "step", "cosine", "plateau"),
        help="of the rate. step: times --decay every --decay-epochs; plateau: after so many "
        "without a better validation loss; cosine: half of one, to 0 at the limit of epochs or "
        "steps (constant)",
    )
    add(
        "--warmup",
        type=integer(0),
        metavar="N",
        help="updates in which the rate rises first; constant and cosine (0)",
    )
    add("--decay", type=number(0, above=True, below=1), metavar="F", help="step, plateau (0.5)")
    add("--decay-epochs", type=integer(1), metavar="N", help="step, plateau (2)")
    add(
        "--patience",
        type=integer(0),
        metavar="N",
        help="stop after N epochs without a better validation loss; 0: never (0)",
    )

    add = parser.add_argument_group("limits, counted from the very start").add_argument
    add("--epochs", type=integer(1), metavar="N", help=f"({DEFAULT_EPOCHS}, if no limit is given)")
    add("--steps", type=integer(1), metavar="N", help="updates")
    add("--minutes", type=number(0, above=True), metavar="M")

    add = parser.add_argument_group("output").add_argument
    add("--log", type=_log_file, metavar="FILE", help="a row an epoch, as .csv or .jsonl")
    add(
        "--save-every",
        type=number(0),
        metavar="SECONDS",
        help="between two saves within an epoch (60)",
    )
    add("--json", action="store_true", help="print one JSON object per epoch and nothing else")
    add(
        "--progress",
        action="store_true",
        default=None,
        help="draw the progress bar even if the standard error stream is no terminal",
    )


def run(args) -> int:
    """Train, and return the exit code."""
    _check_writable(args.out, "--out")
    saved = _load_saved(args.out) if args.resume else None
    options = _merge(args, saved.options) if saved else _given(args)
    if options["log"]:
        log = Path(options["log"])
        if log.is_file() or log.is_dir() or not log.exists():  # it may be a pipe
            _check_writable(log, "--log")
    _check_apart(options["text"], args.out, options["log"])
    text = _read_text(options)
    if saved and saved.options["text_sha256"] != options["text_sha256"]:
        raise CommandError(f"{_name(options)}: not the text that the training to resume is about")

    from ..callbacks import (
        Checkpoints,
        CSVLog,
        EarlyStopping,
        EpochLog,
        JSONLinesLog,
        ProgressBar,
    )
    from ..resume import last_path
    from ..training import Interrupted, NonFiniteError

    with _told(), warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        trainer, data, validation = _assemble(text, options, saved)
    for warning in raised:
        option = "--" if issubclass(warning.category, UserWarning) else ""
        print(f"fastrnn train: warning: {option}{warning.message}", file=sys.stderr)
    bar = ProgressBar(show=args.progress, unit="chars")
    varies = options["schedule"] != "constant" or options["warmup"]
    line = _json_line if args.json else _line_with_rate if varies else _line
    trainer.callbacks = [EpochLog(bar.write, line), bar]
    if options["patience"]:
        trainer.callbacks.append(EarlyStopping(options["patience"]))
    if options["log"]:
        kind = CSVLog if options["log"].endswith(".csv") else JSONLinesLog
        trainer.callbacks.append(kind(options["log"]))
    trainer.callbacks.append(Checkpoints(args.out, options, options["save_every"]))
    if not args.json:
        print(_headline(trainer, data, text, options))
    limits = {"epochs": options["epochs"], "steps": options["steps"]}
    if options["minutes"]:
        limits["seconds"] = 60 * options["minutes"]
    step, resumable = trainer.progress.step, f"fastrnn train --resume --out {args.out}"
    before = _changed(last_path(args.out))
    try:
        trainer.fit(data, validation, **limits)
    except Interrupted:
        print(
            f"stopped by Ctrl-C after step {trainer.progress.step:,}; all is saved, go on with:\n"
            f"  {resumable}",
            file=sys.stderr,
        )
        return 130
    except KeyboardInterrupt:  # a second Ctrl-C: amid a step, which is lost
        if not saved and _changed(last_path(args.out)) == before:  # what is there is another's
            raise
        print(f"interrupted; go on from the last save with:\n  {resumable}", file=sys.stderr)
        return 130
    except NonFiniteError as error:
        raise CommandError(f"{error}. {_what_is_kept(args.out, trainer)}") from None
    if not args.json:
        if trainer.stopped:
            print(f"stopped: {trainer.stopped}")
        elif trainer.progress.step == step:
            print("nothing left to do: the limit was reached before")
        best = trainer.progress.best
        kind = "latest model" if math.isinf(best) else f"best model, {_nats(best)}"
        print(f"{kind}: {args.out}\nto go on, with a higher limit: {resumable}")
    return 0


def _given(args):
    """Return the options of a new training."""
    options = {k: _or(getattr(args, k), default) for k, default in DEFAULTS.items()}
    options |= _limits(args) or {"epochs": DEFAULT_EPOCHS, "steps": None, "minutes": None}
    return options | {"text": args.text and str(args.text)}


def _merge(args, saved):
    """Return the options of a resumed training, refusing those that would make it another one."""
    for key in DEFAULTS:
        given = getattr(args, key)
        if given is not None and given != saved[key] and key not in MAY_CHANGE:
            raise CommandError(
                f"--{key.replace('_', '-')}: the training to resume has {saved[key]}, got {given}"
            )
    options = saved | {k: _or(getattr(args, k), saved[k]) for k in MAY_CHANGE}
    return options | (_limits(args) or {}) | ({"text": str(args.text)} if args.text else {})


def _limits(args):
    limits = {k: getattr(args, k) for k in LIMITS}
    return limits if any(limits.values()) else None


def _or(value, default):
    return default if value is None else value


def _log_file(text):
    """Return the name of a log: a type for argparse."""
    if not text.endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in {' or '.join(SUFFIXES)}, got {text!r}"
        )
    return text


def _check_writable(path, option):
    """Find out before an hour of training, not after it."""
    from ..checkpoint import check_writable

    try:
        check_writable(path)
    except OSError as error:
        raise CommandError(f"{option}: cannot write {path}: {error.strerror}") from None


def _check_apart(text, out, log):
    """Refuse to write over the text, or over one file with another."""
    from ..resume import last_path

    taken = [("the text", Path(text))] if text else []
    for option, what, path in (
        ("--out", "the model", out),
        ("--out", "the training beside the model", last_path(out)),
        ("--log", "the log", log and Path(log)),
    ):
        if path is None:
            continue
        for other, there in taken:
            if _is_same_file(path, there):
                raise CommandError(
                    f"{option}: {what} and {other} would be one file, {path}; name another"
                )
        taken.append((what, path))


def _changed(path):
    """Return when a file was last changed; None: there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def _is_same_file(one, other):
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _load_saved(out):
    from ..models import CharLM  # before loading: the file names this class
    from ..resume import last_path, load_training

    path = last_path(out)
    try:
        saved = load_training(path)
    except FileNotFoundError:
        raise CommandError(f"--resume: there is no {path} to go on from") from None
    except OSError as error:
        raise CommandError(f"--resume: {reason(error)}") from None
    except ValueError as error:
        raise CommandError(f"--resume: {error}") from None
    if not isinstance(saved.model, CharLM):
        kind = type(saved.model).__name__
        raise CommandError(f"--resume: {path}: expected the training of a CharLM, got a {kind}")
    if not DEFAULTS.keys() <= saved.options.keys():
        raise CommandError(f"--resume: {path}: not a training that `fastrnn train` started")
    return saved


def _read_text(options):
    """Return the text, and note in the options which one it was."""
    path = options["text"]
    try:
        if path is None:
            from ..data import builtin_corpus

            text = builtin_corpus()
        else:
            text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(reason(error)) from None
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path}: expected text in UTF-8, got byte {error.object[error.start]:#04x} "
            f"at position {error.start}"
        ) from None
    except RuntimeError as error:
        raise CommandError(str(error)) from None
    if not text:
        raise CommandError(f"{path}: the file is empty")
    options["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return text


def _assemble(text, options, saved):
    """Return the trainer and its data, new or as they were when the training was saved."""
    from .. import optim
    from ..data import Streams, Vocabulary, Whole, split
    from ..models import CharLM
    from ..training import Trainer

    vocabulary = Vocabulary.of(text)
    train_ids, val_ids = split(vocabulary.encode(text), options["val_fraction"])
    size = options["batch_size"], options["seq_len"]
    data = Streams(train_ids, *size, seed=options["seed"])
    validation = Whole(val_ids, *size) if options["val_fraction"] else None
    model = (
        saved.model
        if saved
        else CharLM(
            vocabulary.characters,
            options["cell"],
            options["hidden"],
            options["layers"],
            options["embed"],
            options["dropout"],
            seed=options["seed"],
        )
    )
    kinds = {k.lower(): getattr(optim, k) for k in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad")}
    optimizer = kinds[options["optimizer"]](model, options["lr"])
    schedule = _schedule(optimizer, options, len(data))
    trainer = Trainer(model, optimizer, clip=options["clip"], schedule=schedule)
    if saved:
        trainer.load_state_dict(saved.trainer)
        schedule.base_lr = options["lr"]
    return trainer, data, validation


def _schedule(optimizer, options, updates_per_epoch):
    """Return the schedule of the learning rate, or say which options do not go together."""
    from ..schedules import Constant, CosineWithWarmup, ReduceOnPlateau, StepLR

    kind, warmup = options["schedule"], options["warmup"]
    if warmup and kind in ("step", "plateau"):
        raise CommandError(f"--warmup: expected 0 with --schedule {kind}, got {warmup}")
    if kind == "step":
        return StepLR(optimizer, options["decay_epochs"], options["decay"])
    if kind == "plateau":
        return ReduceOnPlateau(optimizer, options["decay"], options["decay_epochs"] - 1)
    if kind == "constant":
        return Constant(optimizer, warmup)
    totals = [options["steps"], options["epochs"] and options["epochs"] * updates_per_epoch]
    if not any(totals):
        raise CommandError("--schedule cosine: expected a limit of --epochs or --steps, got none")
    total = min(filter(None, totals))
    if warmup >= total:
        raise CommandError(f"--warmup: expected less than the {total} updates in all, got {warmup}")
    return CosineWithWarmup(optimizer, total, warmup)


@contextmanager
def _told():
    """Report what the library says of a bad value as an error of the command."""
    try:
        yield
    except MemoryError as error:
        raise CommandError(f"not enough memory for this model: {error}") from None
    except (ValueError, OverflowError, NotImplementedError) as error:
        raise CommandError(str(error)) from None


def _name(options):
    return options["text"] or "the standard library's documentation"


def _headline(trainer, data, text, options):
    from ..config import get_num_threads

    weights = sum(a.size for a in trainer.model.state_dict().values())
    return (
        f"text   {_name(options)}: {len(text):,} characters, {len(set(text))} different; "
        f"{len(data.ids):,} to train on, {len(text) - len(data.ids):,} to validate on\n"
        f"model  {options['cell']} {options['layers']} x {options['hidden']}, "
        f"{weights:,} weights, {get_num_threads()} threads"
    )


def _nats(loss):
    return f"{loss:.4f} nats ({loss / math.log(2):.3f} bits) per character"


def _line(row):
    validation = "" if row["val_loss"] is None else f"  validation {_nats(row['val_loss'])}"
    return (
        f"epoch {row['epoch']:3d}  step {row['step']:6d}  train {row['train_loss']:.4f}{validation}"
        f"{' *' if row['best'] else '  '}  {row['tokens_per_s']:9,.0f} chars/s"
        f"  {row['seconds']:6.1f} s"
    )


def _line_with_rate(row):
    return f"{_line(row)}  rate {row['lr']:.3g}"


def _json_line(row):
    loss = _or(row["val_loss"], row["train_loss"])
    keys = ("epoch", "step", "lr", "train_loss", "val_loss", "tokens_per_s", "seconds")
    return json.dumps({k: row[k] for k in keys} | {"bits_per_char": loss / math.log(2)})


def _what_is_kept(out, trainer):
    if math.isinf(trainer.progress.best):
        return "No model had been kept yet; try a smaller --lr or --clip"
    return f"{out} is still the best model before that; try a smaller --lr or --clip"
