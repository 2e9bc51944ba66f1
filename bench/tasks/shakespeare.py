"""Tiny Shakespeare: nats per character on the last tenth of the text, and the time it took.

The first 1,003,854 characters train, the rest validates: each of its characters is predicted once,
in long streams whose state is carried along. Recurrent layers on the characters themselves,
dropout before the output layer, Adam with half a cosine, truncated BPTT.

The file is the one of karpathy/char-rnn (data/tinyshakespeare/input.txt).
"""

from pathlib import Path

import common

import fastrnn as fr
from fastrnn.data import Streams, Vocabulary, Whole

TRAIN_CHARACTERS = 1_003_854  # the usual split of this file


def main(options):
    common.set_threads(options)
    file = common.data_file(options.text, "tinyshakespeare.txt (of karpathy/char-rnn)")
    text = file.read_text(encoding="utf-8")
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    data = Streams(ids[:TRAIN_CHARACTERS], options.batch, options.seq_len, seed=options.seed)
    validation = Whole(ids[TRAIN_CHARACTERS:], options.batch, options.seq_len)

    model = build(options, len(vocabulary))
    adam = fr.optim.Adam(model, options.lr)
    schedule = common.cosine(adam, data, options)
    trainer = fr.Trainer(model, adam, clip=options.clip, schedule=schedule)
    rows = common.fit(
        trainer,
        data,
        validation,
        line=lambda row: f"train {row['train_loss']:.4f}  validation {row['val_loss']:.4f}",
        unit="chars",
        options=options,
        epochs=options.epochs,
    )
    show(options, common.parameters(model), rows)


def build(options, size):
    """Characters -> recurrent layers -> dropout -> logits."""
    seeds = common.seeds(options.seed, 3)
    between = options.dropout if options.layers > 1 else 0.0
    cell = common.CELLS[options.cell]
    return fr.Sequential(
        cell(size, options.hidden, options.layers, dropout=between, seed=seeds[0]),
        fr.Dropout(options.dropout, seed=seeds[1]),
        fr.Linear(options.hidden, size, seed=seeds[2]),
    )


def show(options, parameters, rows):
    first = next((row for row in rows if row["val_loss"] <= options.target), None)
    best = min(rows, key=lambda row: row["val_loss"])
    table = []
    for name, row in (("to the target", first), ("best", best), ("whole training", rows[-1])):
        if row is not None:
            seconds = [row["seconds"], row["cpu_seconds"], row["cpu_seconds"] / options.threads]
            shown = (f"{second:.0f}" for second in seconds)
            table.append((name, row["epoch"], f"{row['val_loss']:.4f}", *shown))
    header = ("", "epochs", "validation", "wall s", "CPU s", "CPU s a thread")
    title = (
        f"{options.cell.upper()} {options.layers}x{options.hidden}, {parameters:,} parameters, "
        f"dropout {options.dropout}, batch {options.batch} x {options.seq_len}, Adam "
        f"{options.lr:g} with half a cosine, clip {options.clip:g}; target {options.target} nats "
        "per character."
    )
    result = {
        "parameters": parameters,
        "validation": best["val_loss"],
        "reached": first is not None,
        "to_target": first and common.times(first, options.threads),
        "whole": common.times(rows[-1], options.threads),
        "history": rows,
    }
    notes = "Times include the validation after each epoch."
    common.report("tasks_shakespeare", title, header, table, options, [result], notes)


def arguments():
    parser = common.parser(
        __doc__,
        "python bench/tasks/shakespeare.py --cell lstm --hidden 512 --layers 1",
        hidden=320,
        layers=2,
        dropout=0.4,
        batch=32,
        seq_len=64,
        lr=2e-3,
        clip=5.0,
        warmup=100,
        epochs=16,
        seed=0,
        target=1.50,
    )
    where = common.SHARED / "tinyshakespeare.txt"
    parser.add_argument("text", nargs="?", type=Path, default=where, help="the file")
    parser.add_argument("--cell", choices=list(common.CELLS), default="gru")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
