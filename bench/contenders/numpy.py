"""NumPy as fast as NumPy goes (``numpy_rnn.py``), also stacked and in both directions."""

import numpy as np
from numpy_rnn import CELLS

from contenders import CannotDo


class Contender:
    def __init__(self, threads):
        pass  # OPENBLAS_NUM_THREADS is read at import

    def versions(self):
        return {"numpy": np.__version__}

    def ways(self, case, data):
        if case.ragged:
            raise CannotDo("no lengths")
        layers = [
            [self._layer(case.cell, data, f"_l{k}{suffix}") for suffix in ("", "_reverse")]
            if case.bidirectional
            else [self._layer(case.cell, data, f"_l{k}")]
            for k in range(case.layers)
        ]
        rows = np.eye(case.I, dtype=case.dtype) if case.tokens else None

        def forward():
            x = data["x"] if rows is None else rows[data["x"]]
            for ways in layers:
                ys = [layer.forward(x[::step]) for layer, step in zip(ways, (1, -1), strict=False)]
                x = ys[0] if len(ys) == 1 else np.concatenate((ys[0], ys[1][::-1]), axis=2)
            return {"y": x}

        def train():
            for ways in layers:
                for layer in ways:
                    layer.prepare()
            out, d = forward(), data["dy"]
            for k, ways in reversed(list(enumerate(layers))):
                halves = np.split(d, len(ways), axis=2)
                dxs = [
                    layer.backward(half[::step])[::step]
                    for layer, half, step in zip(ways, halves, (1, -1), strict=False)
                ]
                d = dxs[0] if len(dxs) == 1 else dxs[0] + dxs[1]
                for layer, suffix in zip(ways, ("", "_reverse"), strict=False):
                    for name, grad in layer.grads.items():
                        out[f"{name}_l{k}{suffix}"] = grad
            if rows is None:
                out["dx"] = d
            return out

        def step():
            layer = layers[0][0]
            y = forward()["y"]
            layer.h[0] = layer.h[1]
            if case.cell == "lstm":
                layer.c[0] = layer.c[1]
            return {"y": y}

        yield "numpy_rnn", {"infer": forward, "train": train, "stream": step}[case.mode]

    def _layer(self, cell, data, end):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return CELLS[cell]({name: data[name + end] for name in names})

    def result(self, raw):
        return raw
