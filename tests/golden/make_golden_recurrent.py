"""Write recurrent_rnn.npz, recurrent_lstm.npz and recurrent_gru.npz: what torch.nn computes.

Run it in an environment with torch 2.13 (`make parity` makes one) when a case is added:

    python tests/golden/make_golden_recurrent.py

Every number that goes in is exact in float32, so that the same file serves layers of both dtypes;
every number that comes out is torch's float64. A file holds all of either kind end to end, as
"given" and "expected", and "index", JSON that says what lies where (thousands of small arrays would
be mostly file headers):

    {CASE: {"options": {arguments of the layer}, "lengths": [..] or null,
            "given":    {"x", "state", "dy", "dstate", "param/NAME": shape, in this order},
            "expected": {"out/y", "out/h", .., "grad/dx", "grad/dh", .., "grad/NAME": shape}}}

States have a leading axis of their parts, h or h and c. In the ragged cases the input and dy hold
1e9 wherever a row has ended: whoever reads there, is found out.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CELLS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
RELU = {"nonlinearity": "relu"}
STACK = {"num_layers": 2, "bidirectional": True}

# name -> (T, B, I, H), options of the layer, lengths
CASES = {
    "one_layer": ((7, 3, 5, 6), {}, None),
    "one_step": ((1, 1, 4, 3), {}, None),
    "two_layers_both_directions": ((5, 2, 3, 4), STACK | {"batch_first": True}, None),
    "no_bias": ((4, 2, 3, 5), {"bias": False, "bidirectional": True}, None),
    "wider_than_a_vector": ((3, 7, 9, 17), {}, None),
    "ragged": ((7, 5, 3, 4), {}, (4, 7, 1, 6, 2)),
    "ragged_two_layers_both_directions": ((6, 4, 3, 4), STACK, (2, 6, 1, 5)),
    "ragged_batch_first": ((5, 3, 2, 3), {"batch_first": True, "bidirectional": True}, (5, 1, 3)),
}
RNN_ONLY = {
    "relu": ((7, 3, 5, 6), RELU, None),
    "relu_two_layers_both_directions": ((5, 2, 3, 4), RELU | STACK, None),
}


def golden(cell, shape, options, lengths, rng):
    """One case: its given and its expected arrays, two dicts."""
    T, B, I, H = shape
    layer = CELLS[cell](I, H, **options).double()
    LD = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    parts = 2 if cell == "lstm" else 1
    order = (B, T) if options.get("batch_first") else (T, B)

    def normal(*size):
        return rng.standard_normal(size, dtype=np.float32)

    params = {}
    for name, value in layer.named_parameters():
        params[name] = rng.uniform(-1, 1, value.shape).astype(np.float32)
        value.data = torch.from_numpy(params[name]).double()
    x, dy = normal(*order, I), normal(*order, H * (1 + options.get("bidirectional", False)))
    state, dstate = normal(parts, LD, B, H), normal(parts, LD, B, H)
    if lengths is not None:
        ended = np.arange(T)[:, None] >= np.array(lengths)
        ended = ended.T if options.get("batch_first") else ended
        x[ended] = dy[ended] = 1e9

    x64 = torch.from_numpy(x).double().requires_grad_()
    start = [torch.from_numpy(part).double().requires_grad_() for part in state]
    first = tuple(start) if cell == "lstm" else start[0]
    if lengths is None:
        y, final = layer(x64, first)
    else:
        batch_first = options.get("batch_first", False)
        packed = pack_padded_sequence(x64, lengths, batch_first, enforce_sorted=False)
        packed_y, final = layer(packed, first)
        y, _ = pad_packed_sequence(packed_y, batch_first, total_length=T)
    finals = final if cell == "lstm" else (final,)
    upstream = torch.from_numpy(dy).double()
    loss = (y * upstream).sum()
    for value, gradient in zip(finals, dstate, strict=True):
        loss = loss + (value * torch.from_numpy(gradient).double()).sum()
    loss.backward()

    given = {"x": x, "state": state, "dy": dy, "dstate": dstate}
    given |= {f"param/{name}": value for name, value in params.items()}
    expected = {"out/y": y} | {f"out/{name}": v for name, v in zip("hc", finals, strict=False)}
    expected |= {"grad/dx": x64.grad}
    expected |= {f"grad/d{name}": part.grad for name, part in zip("hc", start, strict=False)}
    expected |= {f"grad/{name}": value.grad for name, value in layer.named_parameters()}
    return given, {name: value.detach().numpy() for name, value in expected.items()}


def main():
    for cell in CELLS:
        rng, index, flat = np.random.default_rng(20260), {}, {"given": [], "expected": []}
        for name, case in (CASES | (RNN_ONLY if cell == "rnn" else {})).items():
            _, options, lengths = case
            index[name] = {"options": options, "lengths": lengths}
            for kind, arrays in zip(flat, golden(cell, *case, rng), strict=True):
                index[name][kind] = {key: value.shape for key, value in arrays.items()}
                flat[kind] += [value.ravel() for value in arrays.values()]
        path = Path(__file__).with_name(f"recurrent_{cell}.npz")
        flat = {kind: np.concatenate(arrays) for kind, arrays in flat.items()}
        np.savez_compressed(path, index=np.array(json.dumps(index)), **flat)
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
