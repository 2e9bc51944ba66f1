"""PyTorch, as a contender."""

import torch
from torch import nn

LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Contender:
    def __init__(self, threads):
        torch.set_num_threads(threads)

    def versions(self):
        return {"torch": torch.__version__}

    def ways(self, case, data):
        dtype = getattr(torch, case.dtype)
        layer = LAYERS[case.cell](
            case.I, case.H, case.layers, bidirectional=case.bidirectional, dtype=dtype
        )
        weights = {name: torch.from_numpy(data[name]) for name in layer.state_dict()}
        layer.load_state_dict(weights)
        x = torch.from_numpy(data["x"])
        # One-hot rows out of a table: the fastest input that torch has for tokens.
        rows = torch.eye(case.I, dtype=dtype) if case.tokens else None
        if case.mode == "infer":
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
            yield "layer", self._infer(layer, x, rows, data)
        elif case.mode == "train":
            yield "layer", self._train(layer, x, rows, data)
        else:
            cell = CELLS[case.cell](case.I, case.H, dtype=dtype)
            cell.load_state_dict({name.removesuffix("_l0"): w for name, w in weights.items()})
            yield "cell", self._step_cell(cell, x[0], rows)
            yield "layer, T = 1", self._step_layer(layer, x, rows)

    def _forward(self, layer, x, rows, data):
        if rows is not None:
            x = rows[x]
        if "lengths" not in data:
            return layer(x)[0]
        # A padded batch in and a padded batch out, as the others: the packing belongs to it.
        lengths = torch.from_numpy(data["lengths"])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(layer(packed)[0], total_length=len(x))[0]

    def _infer(self, layer, x, rows, data):
        def call():
            with torch.inference_mode():
                return {"y": self._forward(layer, x, rows, data)}

        return call

    def _train(self, layer, x, rows, data):
        names = [name for name, _ in layer.named_parameters()]
        wanted = [parameter for _, parameter in layer.named_parameters()]
        if rows is None:
            x.requires_grad_(True)
            names, wanted = [*names, "dx"], [*wanted, x]
        dy = torch.from_numpy(data["dy"])

        def call():
            y = self._forward(layer, x, rows, data)
            grads = torch.autograd.grad(y, wanted, dy)
            return {"y": y, **dict(zip(names, grads, strict=True))}

        return call

    def _step_cell(self, cell, x, rows):
        state = None

        def call():
            nonlocal state
            with torch.inference_mode():
                state = cell(x if rows is None else rows[x], state)
            return {"y": (state[0] if type(state) is tuple else state)[None]}

        return call

    def _step_layer(self, layer, x, rows):
        state = None

        def call():
            nonlocal state
            with torch.inference_mode():
                y, state = layer(x if rows is None else rows[x], state)
            return {"y": y}

        return call

    def result(self, raw):
        return {name: value.detach().numpy() for name, value in raw.items()}
