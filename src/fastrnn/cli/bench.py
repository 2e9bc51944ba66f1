"""Compare an LSTM of this library with the same LSTM written in NumPy, on this machine.

A quick look: medians of interleaved runs, checked to give equal results. The repository's bench/
measures more cells and shapes, and against other libraries.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np

EXAMPLE = "fastrnn bench"

SHAPES = ((50, 1, 32, 32), (100, 1, 128, 128), (50, 32, 64, 128), (50, 32, 256, 256))


def configure(parser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("--quick", action="store_true", help="one small shape only")
    add("--json", action="store_true", help="print one JSON object per row")


def run(args) -> int:
    """Measure and print, and return the exit code."""
    import fastrnn as fr

    if not args.json:
        print(
            f"LSTM, float32, {fr.get_num_threads()} threads; microseconds a call, median\n\n"
            "   T    B    I    H  work           NumPy    fastrnn  ratio"
        )
    for shape in SHAPES[:1] if args.quick else SHAPES:
        for work, numpy_call, our_call in _contenders(fr, *shape):
            theirs, ours = _interleaved(numpy_call, our_call, rounds=3 if args.quick else 9)
            row = dict(zip("TBIH", shape, strict=True), work=work)
            row |= {"numpy_us": theirs, "fastrnn_us": ours, "ratio": theirs / ours}
            if args.json:
                print(json.dumps(row))
            else:
                sizes = "".join(f"{n:4d} " for n in shape)
                print(f"{sizes} {work:<9} {theirs:10,.1f} {ours:10,.1f} {theirs / ours:5.1f}x")
    return 0


def _contenders(fr, T, B, I, H):
    """Yield (work, NumPy's call, our call), after checking that both compute the same."""
    rng = np.random.default_rng(0)
    layer = fr.LSTM(I, H, seed=0)
    numpy_layer = NumpyLSTM(layer.state_dict())
    x, dy = (rng.standard_normal((T, B, n), dtype=np.float32) for n in (I, H))

    def our_training():
        _, _, tape = layer.forward(x)
        return tape.backward(dy, accumulate=False, need_dstate=False)[0]

    def numpy_training():
        numpy_layer.prepare()  # training changes the weights in every step
        numpy_layer.forward(x)
        return numpy_layer.backward(dy)

    np.testing.assert_allclose(layer(x)[0], numpy_layer.forward(x), atol=1e-4)
    np.testing.assert_allclose(our_training(), numpy_training(), atol=1e-3)
    yield "inference", lambda: numpy_layer.forward(x), lambda: layer(x)
    yield "training", numpy_training, our_training


def _interleaved(*calls, rounds, least_seconds=0.03):
    """Return the median microseconds of each call; the calls take turns, in slices."""
    slices = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, slices, strict=True):
            # The threads of whoever ran last, OpenBLAS's or ours, still spin for a moment.
            time.sleep(0.05)
            call()
            count, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < least_seconds:
                call()
                count += 1
            seconds.append(passed / count)
    return [1e6 * statistics.median(s) for s in slices]


class NumpyLSTM:
    """An LSTM layer as a careful NumPy programmer writes it: products hoisted, arrays reused.

    As in ``bench/numpy_rnn.py`` of the repository: x W before the loop, one product and one tanh
    per step (sigmoid(a) = (1 + tanh(a/2)) / 2, with the 1/2 folded into the weights), the weight
    gradients in one product each after the loop.
    """

    def __init__(self, params):
        self.p = {name.removesuffix("_l0"): value for name, value in params.items()}
        self.H = H = self.p["weight_hh"].shape[1]
        self.half = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), H)  # gates i f g o
        self.prepare()

    def prepare(self):
        """Fold the halves into the weights, after these have changed."""
        p, half = self.p, self.half
        self.W, self.R = ((p[name] * half[:, None]).T.copy() for name in ("weight_ih", "weight_hh"))
        self.b = (p["bias_ih"] + p["bias_hh"]) * half

    def forward(self, x):
        """Return the outputs (T, B, H) for x (T, B, I); keep what backward needs."""
        (T, B, I), H = x.shape, self.H
        self.x, self.a = x, (x.reshape(T * B, I) @ self.W + self.b).reshape(T, B, 4 * H)
        self.h, self.c = (np.zeros((T + 1, B, H), np.float32) for _ in range(2))
        self.tanh_c = np.empty((T, B, H), np.float32)
        product = np.empty((B, 4 * H), np.float32)
        for t, gates in enumerate(self.a):
            gates += np.matmul(self.h[t], self.R, out=product)
            np.tanh(gates, out=gates)
            gates *= self.half
            gates += 1 - self.half
            i, f, g, o = np.split(gates, 4, axis=1)
            np.multiply(f, self.c[t], out=self.c[t + 1])
            self.c[t + 1] += i * g
            np.tanh(self.c[t + 1], out=self.tanh_c[t])
            np.multiply(o, self.tanh_c[t], out=self.h[t + 1])
        return self.h[1:]

    def backward(self, dy):
        """Return dx for dy (T, B, H); keep the gradients of the weights."""
        T, B, H = dy.shape
        i, f, g, o = np.split(self.a, 4, axis=2)
        # Whatever does not depend on dh and dc, for all steps at once.
        da = np.concatenate(
            [
                i * (1 - i) * g,
                f * (1 - f) * self.c[:-1],
                i * (1 - g * g),
                o * (1 - o) * self.tanh_c,
            ],
            axis=2,
        ).reshape(T, B, 4, H)
        dc_dh = o * (1 - self.tanh_c * self.tanh_c)
        dh, dc = np.zeros((B, H), np.float32), np.zeros((B, H), np.float32)
        for t in reversed(range(T)):
            dh += dy[t]
            dc += dh * dc_dh[t]
            da[t, :, :3] *= dc[:, None]
            da[t, :, 3] *= dh
            dc *= f[t]
            np.matmul(da[t].reshape(B, 4 * H), self.p["weight_hh"], out=dh)
        da = da.reshape(T * B, 4 * H)
        self.grads = {
            "weight_ih": da.T @ self.x.reshape(T * B, -1),
            "weight_hh": da.T @ self.h[:-1].reshape(T * B, H),
            "bias_ih": da.sum(0),
        }
        return (da @ self.p["weight_ih"]).reshape(self.x.shape)
