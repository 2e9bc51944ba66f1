"""Keras on TensorFlow, as a contender: ``tf.function`` with XLA or without, the faster one."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

LAYERS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
ORDER = {"rnn": [0], "lstm": [0, 1, 2, 3], "gru": [1, 0, 2]}  # z r h where torch has r z n


class Contender:
    def __init__(self, threads):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def versions(self):
        return {"tensorflow": tf.__version__, "keras": keras.__version__}

    def ways(self, case, data):
        self.case = case
        keras.backend.clear_session()
        layers = [self._layer(case, data, k) for k in range(case.layers)]
        rows = tf.eye(case.I, dtype=case.dtype) if case.tokens else None
        # Batch first is all that Keras has: its users have their data so.
        x = tf.constant(np.ascontiguousarray(np.swapaxes(data["x"], 0, 1)))
        mask = None
        if case.ragged:
            mask = tf.constant(np.arange(case.T) < data["lengths"][:, None])
        variables = [v for layer in layers for v in layer.trainable_variables]
        values = [v.value for v in variables]

        def forward(x):
            y = x if rows is None else tf.gather(rows, x)
            for layer in layers:
                y = layer(y, mask=mask)
            return y

        def train(x, dy):
            with tf.GradientTape() as tape:
                if rows is None:
                    tape.watch(x)
                y = forward(x)
            wanted = values if rows is not None else [*values, x]
            return y, tape.gradient(y, wanted, output_gradients=dy)

        def step(x, state):
            y, state = layers[0].cell(x if rows is None else tf.gather(rows, x), state)
            return y, state

        for name, options in (("tf.function", {}), ("XLA", {"jit_compile": True})):
            if case.mode == "infer":
                function = tf.function(forward, **options)
                yield name, lambda function=function: {"y": function(x).numpy()}
            elif case.mode == "train":
                function = tf.function(train, **options)
                dy = tf.constant(np.ascontiguousarray(np.swapaxes(data["dy"], 0, 1)))
                yield name, self._train(function, x, dy)
            else:
                yield name, self._stream(tf.function(step, **options), x[:, 0])

    def _layer(self, case, data, k):
        options = {"return_sequences": True, "dtype": case.dtype}
        if case.ragged:
            options["zero_output_for_mask"] = True  # else it repeats the last output
        layer = LAYERS[case.cell](case.H, **options)
        inputs = case.I if k == 0 else case.H * case.directions
        if case.bidirectional:
            layer = keras.layers.Bidirectional(layer, merge_mode="concat", dtype=case.dtype)
        layer.build((case.B, case.T, inputs))
        weights = []
        for suffix in ("", "_reverse")[: case.directions]:
            end = f"_l{k}{suffix}"
            ih, hh = (self._reorder(data[f"bias_{kind}{end}"]) for kind in ("ih", "hh"))
            weights += [
                self._reorder(data["weight_ih" + end]).T,
                self._reorder(data["weight_hh" + end]).T,
                np.stack((ih, hh)) if case.cell == "gru" else ih + hh,
            ]
        layer.set_weights(weights)
        return layer

    def _train(self, function, x, dy):
        def call():
            y, grads = function(x, dy)
            grads[-1].numpy()  # waits for the last of them
            return y, grads

        return call

    def _stream(self, function, x):
        zeros = tf.zeros((self.case.B, self.case.H), self.case.dtype)
        state = [zeros, zeros] if self.case.cell == "lstm" else [zeros]

        def call():
            nonlocal state
            y, state = function(x, state)
            return {"y": y.numpy()[:, None]}

        return call

    def result(self, raw):
        if isinstance(raw, dict):
            return {"y": np.swapaxes(raw["y"], 0, 1)}
        y, grads = raw
        out, grads = {"y": np.swapaxes(y.numpy(), 0, 1)}, [tf.convert_to_tensor(g) for g in grads]
        if not self.case.tokens:
            out["dx"] = np.swapaxes(grads.pop().numpy(), 0, 1)
        ends = [
            f"_l{k}{suffix}"
            for k in range(self.case.layers)
            for suffix in ("", "_reverse")[: self.case.directions]
        ]
        for n, end in enumerate(ends):
            kernel, recurrent, bias = (g.numpy() for g in grads[3 * n : 3 * n + 3])
            out["weight_ih" + end] = self._reorder(kernel.T)
            out["weight_hh" + end] = self._reorder(recurrent.T)
            pair = bias if self.case.cell == "gru" else (bias, bias)
            out["bias_ih" + end], out["bias_hh" + end] = map(self._reorder, pair)
        return out

    def _reorder(self, weight):  # its own inverse
        gates = weight.reshape(-1, self.case.H, *weight.shape[1:])
        return np.ascontiguousarray(gates[ORDER[self.case.cell]].reshape(weight.shape))
