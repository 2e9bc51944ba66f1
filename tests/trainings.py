"""Small trainings that several test files make, stop, save and compare."""

import numpy as np

import fastrnn as fr
from fastrnn.data import Streams, Whole
from fastrnn.resume import load_training, save_training
from fastrnn.training import Callback, Trainer

OPTIMIZERS = {
    "sgd": lambda m: fr.optim.SGD(m, 0.1),
    "momentum": lambda m: fr.optim.SGD(m, 0.05, momentum=0.9),
    "adagrad": lambda m: fr.optim.Adagrad(m, 0.1),
    "rmsprop": lambda m: fr.optim.RMSprop(m, 0.01),
    "adam": lambda m: fr.optim.Adam(m, 0.01),
    "adamw": lambda m: fr.optim.AdamW(m, 0.01),
}
LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}
IDS = np.random.default_rng(0).integers(0, 5, 403).cumsum() % 5


def make(cell="lstm", optimizer="adam", **options):
    model = fr.Sequential(LAYERS[cell](5, 6, 2, seed=1), fr.Linear(6, 5, seed=2))
    return Trainer(model, OPTIMIZERS[optimizer](model), clip=1.0, **options)


def streams():
    return Streams(IDS, batch_size=4, seq_len=5, seed=0)  # 20 chunks an epoch


def whole():
    return Whole(IDS[:100], batch_size=4, seq_len=5)


class At(Callback):
    """Do something after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, trainer, loss):
        if trainer.progress.step == self.step:
            self.action()


def assert_same(one, other):
    """Two trainers hold the same bits in everything the next step depends on."""
    for name, value in one.model.state_dict().items():
        assert np.array_equal(value, other.model.state_dict()[name]), name
    for name, (a, b) in zip_trees(one.optimizer.state_dict(), other.optimizer.state_dict()):
        assert np.array_equal(a, b), name
    for name, (a, b) in zip_trees(one.state, other.state):
        assert np.array_equal(a, b), name


def zip_trees(a, b, name=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            yield from zip_trees(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for key, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from zip_trees(x, y, f"{name}.{key}")
    else:
        yield name, (a, b)


def through_a_file(trainer, path, **options):
    """Return a new trainer that goes on from a file where the given one stood."""
    save_training(trainer, path)
    return load(path, **options)


def load(path, optimizer="adam", cell=None, schedule=None, **options):
    """Return a new trainer from a file."""
    saved = load_training(path)
    optimizer = OPTIMIZERS[optimizer](saved.model)
    if schedule:
        options["schedule"] = schedule(optimizer)
    trainer = Trainer(saved.model, optimizer, clip=1.0, **options)
    trainer.load_state_dict(saved.trainer)
    return trainer


def comparable(rows):
    """Rows without the clock, and without "best": a stop amid an epoch measures once more."""
    left_out = ("seconds", "tokens_per_s", "best")
    return [{k: v for k, v in row.items() if k not in left_out} for row in rows]


def diverging(**options):
    trainer = make(**options)
    poison = At(25, lambda: trainer.model.params["0.weight_hh_l1"].fill(np.inf))
    trainer.callbacks.insert(0, poison)
    return trainer


class Chunks:
    """The least that a trainer asks of its data."""

    carries_state = False

    def __init__(self, *chunks):
        self.chunks = list(chunks)

    def epoch(self, number):
        return self.chunks
