"""min-char-rnn in NumPy against fastrnn: same weights, same text, same loss curve, how much faster?

What it is: the configuration of Andrej Karpathy's well-known 112 lines (vanilla RNN of 100 units,
25 characters a chunk, one stream, Adagrad 0.1, gradients clipped to +-5), written here anew in
the same style, one-hot column vectors and one small product at a time, next to the same model in
fastrnn. All learn the same text in alternating slices. NumPy runs in float64, which is what the
recipe's plain ``np.zeros`` and ``randn`` make, and in float32; fastrnn likewise.
What it is not: NumPy at its best; that is ``numpy_rnn.py``.

The same curve: this training is chaotic. Adagrad's first step is 0.1 times the sign of every
gradient, the loss triples within five chunks, and a rounding error of 1e-16 is 1e-6 after twenty;
NumPy's own two dtypes part as early. Hence two checks: in float64 the losses of the first 10
iterations, five of them wild, agree to 1e-6; and over the whole run fastrnn's smooth loss in
float32 stays within 5 % of NumPy's in float64, with NumPy's own float32 printed beside it.

One thing differs from the original, on all sides: Adagrad divides by sqrt(sum) + 1e-4, which is
torch's form, instead of sqrt(sum + 1e-8). There is one hidden bias, so ``bias_hh`` stays at zero.

    python bench/min_char_rnn.py [TEXT] --iterations 2000
"""

import argparse
import time
from pathlib import Path

import cores
import measure
import numpy as np

import fastrnn as fr

HIDDEN, CHUNK, RATE, LIMIT, EPSILON = 100, 25, 0.1, 5.0, 1e-4
EXACT = 10  # iterations before rounding shows in float64
SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


class NumpyModel:
    """The model as vectors and loops. ``step`` trains on one chunk and returns its summed loss."""

    def __init__(self, Wxh, Whh, bh, Why, by):
        self.params = [value.copy() for value in (Wxh, Whh, bh[:, None], Why, by[:, None])]
        self.sums = [np.zeros_like(value) for value in self.params]
        self.h = np.zeros((HIDDEN, 1), Wxh.dtype)

    def step(self, inputs, targets):
        Wxh, Whh, bh, Why, by = self.params
        xs, hs, ps, loss = {}, {-1: self.h}, {}, 0.0
        for t, token in enumerate(inputs):
            xs[t] = np.zeros((Wxh.shape[1], 1), Wxh.dtype)
            xs[t][token] = 1
            hs[t] = np.tanh(np.dot(Wxh, xs[t]) + np.dot(Whh, hs[t - 1]) + bh)
            logits = np.dot(Why, hs[t]) + by
            ps[t] = np.exp(logits) / np.sum(np.exp(logits))
            loss -= np.log(ps[t][targets[t], 0])
        dWxh, dWhh, dbh, dWhy, dby = grads = [np.zeros_like(value) for value in self.params]
        dh_next = np.zeros_like(self.h)
        for t in reversed(range(len(inputs))):
            dlogits = ps[t].copy()
            dlogits[targets[t]] -= 1
            dWhy += np.dot(dlogits, hs[t].T)
            dby += dlogits
            dh = np.dot(Why.T, dlogits) + dh_next
            da = (1 - hs[t] * hs[t]) * dh
            dWxh += np.dot(da, xs[t].T)
            dWhh += np.dot(da, hs[t - 1].T)
            dbh += da
            dh_next = np.dot(Whh.T, da)
        for grad in grads:
            np.clip(grad, -LIMIT, LIMIT, out=grad)
        for value, grad, total in zip(self.params, grads, self.sums, strict=True):
            total += grad * grad
            value -= RATE * grad / (np.sqrt(total) + EPSILON)
        self.h = hs[len(inputs) - 1]
        return float(loss)


class FastModel:
    """The same model in fastrnn, a step in one call."""

    def __init__(self, Wxh, Whh, bh, Why, by):
        vocabulary, dtype = len(by), by.dtype.name
        model = fr.Sequential(
            fr.RNN(vocabulary, HIDDEN, dtype=dtype), fr.Linear(HIDDEN, vocabulary, dtype=dtype)
        )
        names = ("0.weight_ih_l0", "0.weight_hh_l0", "0.bias_ih_l0", "1.weight", "1.bias")
        weights = dict(zip(names, (Wxh, Whh, bh, Why, by), strict=True))
        model.load_state_dict(weights | {"0.bias_hh_l0": np.zeros(HIDDEN)})
        self.optimizer = fr.optim.Adagrad(model, RATE, eps=EPSILON)
        self.second_bias = model.grads["0.bias_hh_l0"]
        self.train = fr.TrainStep(model, self.optimizer, reduction="sum", clip_value=LIMIT)
        self.state = None

    def step(self, inputs, targets):
        loss, self.state = self.train.gradients(inputs[:, None], targets[:, None], self.state)
        self.second_bias.fill(0)
        self.optimizer.step()
        return loss


def main():
    options = arguments()
    tokens, vocabulary = read(options.text)
    rng = np.random.default_rng(0)

    def small(*shape):
        return (0.01 * rng.standard_normal(shape)).astype(np.float32)

    weights = (
        small(HIDDEN, vocabulary),
        small(HIDDEN, HIDDEN),
        np.zeros(HIDDEN, np.float32),
        small(vocabulary, HIDDEN),
        np.zeros(vocabulary, np.float32),
    )
    models = {
        f"{name} {dtype}": model(*(value.astype(dtype) for value in weights))
        for name, model in (("NumPy", NumpyModel), ("fastrnn", FastModel))
        for dtype in ("float64", "float32")
    }
    ways = [cores.there_and_back()]
    losses, times = train(models, tokens, options.iterations)
    ways.append(cores.there_and_back())
    curves = {name: smooth(values, vocabulary) for name, values in losses.items()}
    us = {name: measure.quartiles(values) for name, values in times.items()}
    fast = us["fastrnn float32"]["median"]
    first = slice(EXACT)
    differences = {
        "first": difference(losses["fastrnn float64"][first], losses["NumPy float64"][first]),
        "fastrnn": difference(curves["fastrnn float32"], curves["NumPy float64"]),
        "NumPy": difference(curves["NumPy float32"], curves["NumPy float64"]),
    }
    points = [int(k) for k in np.linspace(0, options.iterations - 1, 6)]
    env = measure.environment() | {"there_and_back_ns": ways}
    markdown = report(options, env, tokens, us, curves, points, differences)
    print(markdown)
    if not differences["first"] < 1e-6:
        raise SystemExit(f"the first {EXACT} losses differ in float64: not the same training")
    if not differences["fastrnn"] < 0.05:
        raise SystemExit("the float32 loss curves differ by more than 5 %")
    result = {
        "environment": env,
        "iterations": options.iterations,
        "us_per_iteration": us,
        "ratio": {name: value["median"] / fast for name, value in us.items()},
        "differences": differences,
        "smooth_loss": {name: [float(curve[k]) for k in points] for name, curve in curves.items()},
    }
    if not options.no_write:
        print("written:", measure.write("min_char_rnn", result, markdown))


def report(options, env, tokens, us, curves, points, differences):
    fast = us["fastrnn float32"]["median"]
    rows = [
        ("us per iteration", *(f"{value['median']:.1f}" for value in us.values())),
        ("ratio to the last", *(f"{value['median'] / fast:.1f}" for value in us.values())),
    ]
    for k in points:
        losses = (f"{curve[k]:.3f}" for curve in curves.values())
        rows.append((f"smooth loss after {k + 1:,}", *losses))
    return (
        f"{measure.headline(env)} RNN {HIDDEN}, {CHUNK} steps, one stream of {len(tokens):,} "
        f"characters, Adagrad {RATE}, clip {LIMIT:g}, {options.iterations:,} iterations.\n\n"
        f"{measure.table(('min-char-rnn', *us), rows)}\n"
        f"Relative difference from NumPy float64, at most: losses of the first {EXACT} iterations, "
        f"fastrnn float64 {differences['first']:.1e}; smooth loss of all, fastrnn float32 "
        f"{differences['fastrnn']:.1e}, NumPy float32 {differences['NumPy']:.1e}.\n"
        + distance(*env["there_and_back_ns"])
    )


def distance(before, after):
    """How far apart the two cores were, which decides whether a second thread is of use."""
    if before is None:
        return ""
    return (
        f"\nA line of memory went from one core to the other and back in {before:.0f} ns before, "
        f"{after:.0f} ns afterwards (bench/cores.py): in 100 to 130 where they are neighbours.\n"
    )


def difference(curve, expected):
    return float(np.abs(np.divide(curve, expected) - 1).max())


def train(models, tokens, iterations, slice_length=200):
    """Train all models on the same chunks, in alternating slices of iterations.

    Slices are long enough that what the model before has left in the caches, and a thread that has
    fallen asleep meanwhile, count as little as in a training of their own.
    """
    losses, times = {name: [] for name in models}, {name: [] for name in models}
    chunks = (len(tokens) - 1) // CHUNK
    for first in range(0, iterations, slice_length):
        for name, model in models.items():
            last = min(first + slice_length, iterations)
            starts = [k % chunks * CHUNK for k in range(first, last)]
            batches = [(tokens[s : s + CHUNK], tokens[s + 1 : s + CHUNK + 1]) for s in starts]
            start = time.perf_counter()
            losses[name] += [model.step(*batch) for batch in batches]
            times[name].append((time.perf_counter() - start) / len(batches) * 1e6)
    return losses, times


def smooth(losses, vocabulary):
    """The recipe's running average, from the loss of a uniform guess."""
    value, curve = np.log(vocabulary) * CHUNK, []
    for loss in losses:
        value = 0.999 * value + 0.001 * loss
        curve.append(value)
    return np.array(curve)


def read(path):
    """A text as token ids in order of the characters' code points, and their number."""
    if path or SHAKESPEARE.exists():
        text = (path or SHAKESPEARE).read_text(encoding="utf-8")
    else:
        from pydoc_data.topics import topics

        print("Tiny Shakespeare is absent; the standard library's documentation is used")
        text = "\n".join(topics.values())
    characters = sorted(set(text))
    index = {character: k for k, character in enumerate(characters)}
    return np.array([index[character] for character in text], np.int64), len(characters)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/min_char_rnn.py --iterations 5000",
    )
    parser.add_argument("text", nargs="?", type=Path, help="default: Tiny Shakespeare")
    parser.add_argument("--iterations", type=int, default=4000, help="default 4000")
    parser.add_argument("--no-write", action="store_true", help="print only, write no result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
