"""The cases on which fastrnn has to agree with an oracle, and samples of them that cover.

What it is: the space of cells, options and sizes, seeded inputs for a case, and covering samples:
every pair (or triple) of values of any two (three) axes occurs in some case. The sizes stand on
both sides of every tile and vector width of the kernels.
What it is not: a list of tests; those are ``test_torch.py`` and ``engine/test_parity_twin.py``.
"""

import itertools
import random
import zlib
from dataclasses import dataclass, fields

import numpy as np

import fastrnn as fr
from fastrnn import reference as twin

TORCH_AXES = {
    "cell": ("rnn_tanh", "rnn_relu", "lstm", "gru"),
    "layers": (1, 2, 3),
    "bidirectional": (False, True),
    "batch_first": (False, True),
    "dtype": ("float32", "float64"),
    "T": (1, 2, 7, 50),
    "B": (1, 2, 3, 5, 6, 7, 10, 11, 33),
    "I": (1, 3, 16, 17, 31, 64, 100),
    "H": (1, 3, 16, 17, 31, 64, 100),
    "bias": (True, False),
    "state": ("absent", "given"),
    "through": ("y", "state", "both"),
}
TOLERANCES = {"float32": (2e-6, 2e-5), "float64": (1e-12, 1e-11)}  # forward, gradients
CLASSES = {  # by what stands before a cell's first _
    "rnn": fr.RNN,
    "lstm": fr.LSTM,
    "gru": fr.GRU,
}


@dataclass(frozen=True)
class Case:
    """One point of the matrix; ``through`` says which outputs a gradient comes in by."""

    cell: str
    layers: int
    bidirectional: bool
    batch_first: bool
    dtype: str
    T: int
    B: int
    I: int
    H: int
    bias: bool = True
    state: str = "given"
    through: str = "both"
    tokens: bool = False

    def __str__(self):
        words = [self.cell, f"L{self.layers}", "bi" if self.bidirectional else "uni", self.dtype]
        words += ["BT" if self.batch_first else "TB", f"{self.T}x{self.B}x{self.I}x{self.H}"]
        words += [] if self.bias else ["nobias"]
        words += [f"state_{self.state}", f"through_{self.through}"]
        return "-".join(words + (["tokens"] if self.tokens else []))

    @property
    def kind(self):
        """``rnn``, ``lstm`` or ``gru``: a key of `CLASSES`."""
        return self.cell.partition("_")[0]

    @property
    def directions(self):
        return 2 if self.bidirectional else 1

    def layer_options(self):
        """Keyword arguments of the fastrnn layer."""
        variant = self.cell.partition("_")[2]
        options = {"nonlinearity": variant} if self.kind == "rnn" else {}
        if self.kind == "gru":
            options = {"reset_after": variant != "before"}
        return options | {
            "num_layers": self.layers,
            "bidirectional": self.bidirectional,
            "batch_first": self.batch_first,
            "bias": self.bias,
            "dtype": self.dtype,
        }

    def inputs(self, seed=0, scale=1.0):
        """Weights, x, initial state and upstream gradients, all of the case's dtype.

        `scale` multiplies the biases, and the input weights of the first layer."""
        rng = np.random.default_rng((zlib.crc32(str(self).encode()), seed))
        G, D, H = CLASSES[self.kind]._gates, self.directions, self.H

        def normal(*shape):
            return rng.standard_normal(shape).astype(self.dtype)

        params = {}
        for k, suffix in itertools.product(range(self.layers), ("", "_reverse")[:D]):
            I = self.I if k == 0 else D * H
            shapes = {"weight_ih": (G * H, I), "weight_hh": (G * H, H)}
            shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)} if self.bias else {}
            for name, shape in shapes.items():
                # Half as large again as the usual start: the gates then leave their linear part.
                values = rng.uniform(-1.5, 1.5, shape) / np.sqrt(H)
                if name.startswith("bias") or (name == "weight_ih" and k == 0):
                    values *= scale
                params[f"{name}_l{k}{suffix}"] = values.astype(self.dtype)
        order = (self.B, self.T) if self.batch_first else (self.T, self.B)
        x = rng.integers(0, self.I, order) if self.tokens else normal(*order, self.I)
        parts = 2 if self.kind == "lstm" else 1

        def state():
            arrays = tuple(normal(self.layers * D, self.B, H) for _ in range(parts))
            return arrays if parts == 2 else arrays[0]

        given = state() if self.state == "given" else None
        dy = normal(*order, D * H) if self.through != "state" else None
        dstate = state() if self.through != "y" else None
        return params, x, given, dy, dstate


def covering(axes, strength, seed=0):
    """A short list of cases in which every ``strength`` axes take every combination of values.

    Greedy: a new case starts from an uncovered combination and takes, of some random
    completions, the one that covers most. The same arguments always give the same list.
    """
    rng, names = random.Random(seed), list(axes)
    groups = list(itertools.combinations(range(len(names)), strength))
    uncovered = {
        (group, values)
        for group in groups
        for values in itertools.product(*(axes[names[k]] for k in group))
    }
    order = sorted(uncovered, key=repr)
    rng.shuffle(order)
    cases = []
    for group, values in order:
        if (group, values) not in uncovered:
            continue
        best, gain = None, -1
        for _ in range(12):
            row = [rng.choice(axes[name]) for name in names]
            for k, value in zip(group, values, strict=True):
                row[k] = value
            covered = {(g, tuple(row[k] for k in g)) for g in groups} & uncovered
            if len(covered) > gain:
                best, newly, gain = row, covered, len(covered)
        uncovered -= newly
        cases.append(Case(**dict(zip(names, best, strict=True))))
    return cases


def everything(axes=TORCH_AXES):
    """The full product of the sizes and options; bias, state and ``through`` take turns."""
    turns = ("bias", "state", "through")
    names = [field.name for field in fields(Case) if field.name in axes and field.name not in turns]
    spins = itertools.cycle(itertools.product(*(axes[name] for name in turns)))
    for values in itertools.product(*(axes[name] for name in names)):
        yield Case(**dict(zip((*names, *turns), (*values, *next(spins)), strict=True)))


# What a contender computed, as two dicts of arrays: outputs and gradients, by name.


def fastrnn_layer(case, params):
    """The case's layer with these weights."""
    layer = CLASSES[case.kind](case.I, case.H, **case.layer_options())
    layer.load_state_dict(params)
    return layer


def inference_of_fastrnn(case, params, x, state, dy, dstate):
    """Outputs of the fastrnn layer when nothing is kept for a backward pass."""
    return _outputs(*fastrnn_layer(case, params)(x, state))


def from_fastrnn(case, params, x, state, dy, dstate):
    """Outputs and gradients of the fastrnn layer."""
    layer = fastrnn_layer(case, params)
    y, final, tape = layer.forward(x, state)
    dx, dinitial = tape.backward(dy, dstate)
    return _outputs(y, final), _gradients(dx, dinitial, layer.grads, params)


def from_twin(case, params, x, state, dy, dstate, dtype=np.float64):
    """Outputs and gradients of the NumPy twin; in float64 the truth for either dtype."""

    def cast(value):
        if isinstance(value, tuple):
            return tuple(map(cast, value))
        return value if value is None else np.asarray(value, dtype)

    options = case.layer_options()
    del options["bias"], options["dtype"]
    params = {name: cast(value) for name, value in params.items()}
    x = x if case.tokens else cast(x)
    y, final, caches = twin.stack_forward(case.kind, params, x, cast(state), **options)
    dx, dinitial, grads = twin.stack_backward(caches, cast(dy), cast(dstate))
    on_the_kink = case.cell == "rnn_relu" and not all(map(_clear_of_zero, caches.cells))
    return _outputs(y, final), _gradients(dx, dinitial, grads, params), on_the_kink


def well_posed(case):
    """Inputs for a case on which rounding alone cannot fail it, and the truth for them.

    Returns ``(inputs, outputs, gradients)``. Seeds are tried until

    - no pre-activation of a relu is within rounding of 0, where one correct implementation has
      derivative 0 and another has 1;
    - the twin, run in float32, is well inside the float32 tolerances: with one unit or one row,
      results can cancel so far that no arithmetic could reach them. A few numbers can also be right
      by luck, so then the weights' neighbours, a tenth away, have to pass as well;
    - so is the twin, run in float64, with weights moved by as many roundings as the products of a
      step may make: NumPy adds up in an order of its own, in which it loses less;
    - no gradient has vanished so far that the engine's flushing of subnormal numbers counts.

    After 50, 100 and 150 seeds what x and biases do gets smaller: units that always saturate leave
    too few digits of ``1 - h^2`` in float32. The engine under test has no say in the choice.
    """
    for seed in range(1000):
        inputs = case.inputs(seed, 0.5 ** min(seed // 50, 3))
        *truth, on_the_kink = from_twin(case, *inputs)
        if on_the_kink or _vanished(case, truth):
            continue
        neighbours = 8 if case.H * case.B <= 48 else 1
        near = all(_near(case, inputs, truth, neighbour) for neighbour in range(neighbours))
        if near and all(_bears(case, inputs, truth, draw) for draw in range(4)):
            return inputs, *truth
    raise AssertionError(f"{case}: no seed makes it well posed")


def _vanished(case, truth):
    """Whether a hundred flushed numbers could reach the tolerance of some array."""
    smallest = 100 * float(np.finfo(case.dtype).tiny)
    return any(
        0 < np.linalg.norm(exact) < smallest / limit
        for arrays, limit in zip(truth, TOLERANCES[case.dtype], strict=True)
        for exact in arrays.values()
    )


def _near(case, inputs, truth, neighbour):
    """Whether float32 keeps to a quarter of the tolerances, there or at a neighbour (not 0).

    In float64 all errors are smaller by the ratio of the roundings.
    """
    coarser = np.finfo(np.float32).eps / np.finfo(case.dtype).eps
    params, *others = inputs
    if neighbour:
        rng = np.random.default_rng(neighbour)
        params = {
            name: (value * (1 + 0.1 * rng.standard_normal(value.shape))).astype(case.dtype)
            for name, value in params.items()
        }
        *truth, _ = from_twin(case, params, *others)
    *own, _ = from_twin(case, params, *others, dtype=np.float32)
    return _within(4, own, truth, case, coarser)


def _bears(case, inputs, truth, draw):
    """Whether weights that are moved by sqrt(I + H) roundings give what the tolerances allow."""
    params, *others = inputs
    rng = np.random.default_rng(draw)
    rounding = np.finfo(np.float32).eps / 2 * (case.I + case.H) ** 0.5
    moved = {
        name: value * (1 + rounding * rng.standard_normal(value.shape))
        for name, value in params.items()
    }
    *own, _ = from_twin(case, moved, *others)
    return _within(1, own, truth, case, np.finfo(np.float32).eps / np.finfo(case.dtype).eps)


def _within(margin, own, truth, case, coarser):
    return all(
        margin * relative_error(rounded[name], exact[name]) <= limit * coarser
        for rounded, exact, limit in zip(own, truth, TOLERANCES[case.dtype], strict=True)
        for name in exact
    )


def _clear_of_zero(cell):
    x = np.eye(cell.W.shape[1])[cell.x] if cell.tokens else cell.x
    bias = cell.b_ih + cell.b_hh
    a = x @ cell.W.T + cell.h_prev @ cell.R.T + bias
    terms = abs(x) @ abs(cell.W.T) + abs(cell.h_prev) @ abs(cell.R.T) + abs(bias)
    return (abs(a) >= 2e-7 * terms).all()  # 0 >= 0: a dead layer below is no obstacle


def _outputs(y, final):
    return {"y": y} | named(("h", "c"), final)


def _gradients(dx, dinitial, grads, params):
    gradients = ({} if dx is None else {"dx": dx}) | named(("dh", "dc"), dinitial)
    return gradients | {name: grads[name] for name in params}


def named(names, state):
    """A state, h or (h, c), as a dict of its one or two parts."""
    return dict(zip(names, state if isinstance(state, tuple) else (state,), strict=False))


def relative_error(actual, expected):
    """norm(actual - expected) / norm(expected), in float64; 0 when both are zero."""
    expected = np.asarray(expected, np.float64)
    difference = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    return difference / (np.linalg.norm(expected) or 1.0) if difference else 0.0


def agree(actual, expected, tolerance):
    """Assert that two dicts of arrays have the same names and shapes and agree in the norm."""
    assert list(actual) == list(expected)
    errors = {}
    for name, value in expected.items():
        assert np.shape(actual[name]) == np.shape(value), name
        error = relative_error(actual[name], value)
        if not error <= tolerance:  # "not <=" so that NaN fails as well
            errors[name] = error
    assert not errors, f"relative errors above {tolerance:.0e}: " + ", ".join(
        f"{name} {error:.2e}" for name, error in errors.items()
    )
