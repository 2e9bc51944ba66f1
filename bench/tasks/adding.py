"""The adding problem at T = 200: two numbers of a row are marked, say their sum at its end.

Hochreiter & Schmidhuber 1997. Always saying 1 costs a mean squared error of 1/6 = 0.167. Every
batch is fresh (`fastrnn.tasks.data.adding`), so nothing can be learnt by heart; the error is that
on 10,000 more sequences.

The LSTM starts with memories of 1 to T steps (`fastrnn.init.chrono_`): with a forget bias of 1 or 5
it still says 1 after 4,000 updates, because no gradient comes through 200 steps. The GRU starts as
it is built.
"""

import common
import numpy as np

import fastrnn as fr
from fastrnn.tasks.data import adding

TEST_SEQUENCES = 10_000


class Fresh:
    """Batches of the adding problem, drawn from (`seed`, number of the epoch)."""

    carries_state = False

    def __init__(self, length, batch, updates, seed):
        self.length, self.batch, self.updates, self.seed = length, batch, updates, seed

    def epoch(self, number):
        rng = np.random.default_rng([self.seed, number])
        return [adding(rng, self.length, self.batch) for _ in range(self.updates)]


def main(options):
    common.set_threads(options)
    training, validating, testing = common.seeds(options.seed + 1, 3)
    data = Fresh(options.length, options.batch, options.updates, training)
    validation = Fresh(options.length, 1000, 1, validating)
    test = Fresh(options.length, 1000, TEST_SEQUENCES // 1000, testing)
    table, results = [], []
    for name in options.cells:
        print(f"{name.upper()}:", flush=True)
        model = build(name, options)
        adam = fr.optim.Adam(model, options.lr)
        schedule = common.cosine(adam, data, options)
        trainer = fr.Trainer(model, adam, at_the_end, clip=options.clip, schedule=schedule)
        rows = common.fit(
            trainer,
            data,
            validation,
            line=lambda row: f"train {row['train_loss']:.5f}  validation {row['val_loss']:.5f}",
            unit="targets",
            options=options,
            epochs=options.epochs,
        )
        first = next((row["step"] for row in rows if row["val_loss"] < options.target), None)
        error = trainer.evaluate(test)["loss"]
        result = {
            "cell": name,
            "parameters": common.parameters(model),
            "updates": rows[-1]["step"],
            "updates_to_target": first,
            "test": error,
            "reached": error < options.target,
            **common.times(rows[-1], options.threads),
            "history": rows,
        }
        results.append(result)
        seconds = f"{result['seconds']:.0f}", f"{result['cpu_seconds_a_thread']:.0f}"
        updates = f"{first:,}" if first else "never", f"{result['updates']:,}"
        table.append((name.upper(), *updates, f"{error:.5f}", *seconds))
    header = (
        f"T = {options.length}",
        f"updates to {options.target:g}",
        "updates",
        "test error",
        "wall s",
        "CPU s a thread",
    )
    title = (
        f"{options.hidden} units, batch {options.batch}, Adam {options.lr:g} with half a cosine, "
        f"clip {options.clip:g}; target: squared error below {options.target:g}, where remembering "
        "nothing costs 0.167."
    )
    notes = f"Test: {TEST_SEQUENCES:,} fresh sequences."
    common.report("tasks_adding", title, header, table, options, results, notes)


def at_the_end(y, target):
    """Squared error of the last output; the others are not asked for."""
    dy = np.zeros_like(y)
    loss, dy[-1] = fr.mse(y[-1], target)
    return loss, dy


def build(name, options):
    seeds = common.seeds(options.seed, 3)
    cell = common.CELLS[name](2, options.hidden, seed=seeds[0])
    if name == "lstm":
        fr.init.chrono_(cell, options.length, seed=seeds[2])
    return fr.Sequential(cell, fr.Linear(options.hidden, 1, seed=seeds[1]))


def arguments():
    parser = common.parser(
        __doc__,
        "python bench/tasks/adding.py --cells gru --length 400",
        cells=["lstm", "gru"],
        length=200,
        hidden=64,
        batch=32,
        updates=100,
        lr=5e-3,
        clip=1.0,
        warmup=0,
        epochs=20,
        seed=0,
        target=0.01,
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
