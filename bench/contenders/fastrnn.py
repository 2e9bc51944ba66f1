"""fastrnn, as a contender."""

import numpy as np

import fastrnn as fr

LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}


class Contender:
    def __init__(self, threads):
        fr.set_num_threads(threads)

    def versions(self):
        return {"fastrnn": fr.__version__}

    def ways(self, case, data):
        layer = LAYERS[case.cell](
            case.I, case.H, case.layers, bidirectional=case.bidirectional, dtype=case.dtype
        )
        layer.load_state_dict({name: data[name] for name in layer.state_dict()})
        x, lengths = data["x"], data.get("lengths")

        def infer():
            return {"y": layer(x, lengths=lengths)[0]}

        def train():
            layer._touch()  # as an optimizer does: packed weights are stale now
            y, _, tape = layer.forward(x, lengths=lengths)
            dx, _ = tape.backward(data["dy"], accumulate=False, need_dstate=False)
            return {"y": y, "dx": dx, **layer.grads}

        if case.mode == "stream":
            stream, x_t, out = layer.stream(), x[0], np.empty((1, case.H), case.dtype)
            yield "stream", lambda: {"y": stream.step(x_t, out)[None]}
        else:
            yield "layer", infer if case.mode == "infer" else train

    def result(self, raw):
        return {name: value for name, value in raw.items() if value is not None}
