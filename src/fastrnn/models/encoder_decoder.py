"""Sequence to sequence: an encoder, a decoder, and attention between them.

Sutskever, Vinyals & Le 2014 (one network reads, another one writes); Bahdanau, Cho & Bengio 2015
(the writer looks back at all that the reader saw). Everything between token ids and logits, forward
and backward. Not here: training (`fastrnn.training`), the attention itself (`fastrnn.layers`).

**How it differs from Bahdanau et al.** There the query of step t is the decoder's *previous* state,
and the context goes into the *next* state, so each step waits for the attention of the one before.
Here the query is the state of the same step and the context goes only to the output, as in Luong,
Pham & Manning 2015; the scores are Bahdanau's. In training the decoder then runs over all target
tokens in one call, and the attention of all steps is a few products. What is lost is that the
decoder's recurrent state never sees what was attended to, only what was written.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from ..data import IGNORED
from ..layers import AdditiveAttention, Embedding, Linear
from ..layers._checks import check_gradient, check_index, check_positive, check_stateless, generator
from ..layers.container import Container, check_backward
from ..sampling import check_sampling, choose
from .char_lm import CELLS, check_cell, spawn_seeds


class EncoderDecoder(Container):
    """Turn one sequence of token ids into another, of another length.

    Parameters
    ----------
    source_size, target_size : int
        Numbers of different ids in sources and targets.
    cell : {"lstm", "gru", "rnn"}
    hidden_size : int
        H of encoder (each direction) and decoder, and width of what the output layer reads.
    num_layers : int
        Of the encoder and of the decoder.
    embedding : int
        Width of embeddings of source and target; 0: ids go straight into the recurrent layers (the
        same as one-hot rows, never built).
    dropout : float
        Between recurrent layers.
    bidirectional : bool, default True
        Whether the encoder reads in both directions. The decoder then starts from a linear map of
        both final states, through tanh for h; otherwise from the final state as it is.
    attention_size : int, optional
        Width of the hidden layer that scores; `hidden_size` by default.
    start : int, default 0
        Target id that the decoder reads before its first step.
    stop : int or None, default 1
        Target id that ends a sequence; put it at the end of each target. None: only the longest
        length ends one. `start` and `stop` may be the same id.
    dtype : {"float32", "float64"}
    seed : int, numpy Generator or None

    Attributes
    ----------
    params, grads : dict
        By part: ``encoder.weight_ih_l0``, ``decoder. ...``, ``attention.weight_query``,
        ``combine.weight``, ``output.weight``; with both directions ``bridge.weight`` (for an LSTM
        ``bridge_c.weight`` too), with embeddings ``embed_source.weight``, ``embed_target.weight``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came: ``start: expected an id in [0, 12),
        got 12``.

    Notes
    -----
    (E1) to (E15) of docs/math.md, which also tells how this differs from the paper: the context
    does not enter the decoder's state. In training, memory for attention is B T S numbers: the B T
    S M of its hidden layer are never stored.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> model = fr.EncoderDecoder(10, 12, "gru", hidden_size=16, seed=0)
    >>> source = np.array([[3, 5], [4, 0], [9, 0]])               # (S, B), padded with anything
    >>> target = np.array([[7, 2], [8, 1], [1, -100]])            # (T, B): 1 stops, -100 is padding
    >>> logits, _, tape = model.forward((source, target), lengths=[3, 1])
    >>> loss, dlogits = fr.cross_entropy(logits, target)
    >>> tape.backward(dlogits)
    (None, None)
    >>> logits.shape, tape.attention.shape                        # (T, B, V), (T, B, S)
    ((3, 2, 12), (3, 2, 3))
    >>> [ids.dtype.name for ids in model.generate(source, [3, 1], max_length=5)]
    ['int64', 'int64']
    """

    def __init__(
        self,
        source_size,
        target_size,
        cell="lstm",
        hidden_size=128,
        num_layers=1,
        embedding=0,
        dropout=0.0,
        *,
        bidirectional=True,
        attention_size=None,
        start=0,
        stop=1,
        dtype="float32",
        seed=None,
    ):
        self.source_size = check_positive("source_size", source_size)
        self.target_size = check_positive("target_size", target_size)
        check_cell(cell)
        self.hidden_size = H = check_positive("hidden_size", hidden_size)
        if attention_size is not None:
            attention_size = check_positive("attention_size", attention_size)
        M = attention_size or H
        embedding = check_index("embedding", embedding)
        if start is None:
            raise TypeError("start: expected an id, got None")
        self.start = self._check_mark("start", start)
        self.stop = None if stop is None else self._check_mark("stop", stop)
        self.bidirectional = bool(bidirectional)
        D = 1 + self.bidirectional

        seeds = iter(spawn_seeds(seed, 9))
        common = {"batch_first": True, "dropout": dropout, "dtype": dtype}
        parts = {
            "encoder": CELLS[cell](
                embedding or self.source_size,
                H,
                num_layers,
                bidirectional=self.bidirectional,
                seed=next(seeds),
                **common,
            ),
            "decoder": CELLS[cell](
                embedding or self.target_size, H, num_layers, seed=next(seeds), **common
            ),
            "attention": AdditiveAttention(
                H, D * H, M, batch_first=True, dtype=dtype, seed=next(seeds)
            ),
            "combine": Linear(D * H + H, H, dtype=dtype, seed=next(seeds)),
            "output": Linear(H, self.target_size, dtype=dtype, seed=next(seeds)),
        }
        if self.bidirectional:
            for name in ("bridge", "bridge_c") if cell == "lstm" else ("bridge",):
                parts[name] = Linear(D * H, H, dtype=dtype, seed=next(seeds))
        if embedding:
            sizes = {"embed_source": self.source_size, "embed_target": self.target_size}
            for name, size in sizes.items():
                parts[name] = Embedding(size, embedding, dtype=dtype, seed=next(seeds))
        self._adopt(parts, dtype)
        self._config = {
            "source_size": self.source_size,
            "target_size": self.target_size,
            "cell": cell,
            "hidden_size": H,
            "num_layers": parts["encoder"].num_layers,
            "embedding": embedding,
            "bidirectional": self.bidirectional,
            "attention_size": attention_size,
            "start": self.start,
            "stop": self.stop,
            "dtype": self.dtype.name,
        }

    def _check_mark(self, name, mark):
        if not check_index(name, mark) < self.target_size:
            raise ValueError(f"{name}: expected an id in [0, {self.target_size}), got {mark}")
        return int(mark)

    def config(self) -> dict:
        """Return the constructor's arguments, without the seed."""
        return {**self._config, "dropout": self._parts["encoder"].dropout}

    # ---- training

    def __call__(self, x, state=None, lengths=None):
        """Return the logits of every target, without keeping anything.

        Parameters
        ----------
        x : pair of integer ndarray
            Source ids (S, B), and target ids (T, B) of which step t reads those before t: the
            targets themselves, nothing has to be shifted. -100 is allowed where a target is padded.
        state : None
        lengths : (B,) integers in 0..S, optional
            Steps of each source; what is beyond is not read.

        Returns
        -------
        logits : ndarray (T, B, V)
            ``logits[t]`` predicts ``target[t]``.
        state : None

        Raises
        ------
        TypeError, ValueError
            Naming ``source``, ``target`` or ``lengths``, what was expected and what came.
        """
        logits, _, _ = self._run(x, state, lengths, keep=False)
        return logits, None

    def forward(self, x, state=None, lengths=None):
        """Return the logits of every target, None, and a tape with ``tape.attention``.

        Teacher forcing: the decoder reads the targets, whatever it would have written.

        Parameters
        ----------
        x, state, lengths
            As in a call.

        Returns
        -------
        logits : ndarray (T, B, V)
        state : None
        tape : EncoderDecoderTape
            ``tape.backward(dlogits)`` adds into `grads`; ``tape.attention`` is (T, B, S).

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        return self._run(x, state, lengths, keep=True)

    def _run(self, x, state, lengths, keep):
        check_stateless(self, state)
        source, inputs = self._check(x)
        run = _Run(self._parts, keep)
        memory, start = self._encode(run, source, lengths)
        if self._config["embedding"]:
            inputs = run("embed_target", inputs)
        states = run("decoder", inputs, start)[0]  # (E3)
        context = run("attention", (states, memory), None, lengths)
        read = np.tanh(run("combine", np.concatenate([context, states], axis=2)))  # (E8)
        logits = _turn(run("output", read))
        if not keep:
            return logits, None, None
        return logits, None, EncoderDecoderTape(self, run.tapes, start, read, logits.shape)

    def _encode(self, run, source, lengths):
        """Return the memory (B, S, D*H) and the state that the decoder starts from: (E1), (E2)."""
        wrong = (source < 0) | (source >= self.source_size)
        read = wrong
        if lengths is not None:
            lengths = _core._check_lengths(lengths, source.shape[1], len(source))
            read = wrong & (np.arange(source.shape[1]) < lengths[:, None])
        if read.any():
            raise ValueError(
                f"source: expected ids in [0, {self.source_size}), got {source[read][0]}"
            )
        if self._config["embedding"]:
            # Padding may hold anything; the layers above skip it, but a table has no such row.
            source = run("embed_source", np.where(wrong, 0, source))
        memory, final = run("encoder", source, None, lengths)
        if not self.bidirectional:
            return memory, final
        if not isinstance(final, tuple):
            return memory, np.tanh(run("bridge", _side_by_side(final)))
        h, c = final
        return memory, (
            np.tanh(run("bridge", _side_by_side(h))),
            run("bridge_c", _side_by_side(c)),
        )

    def _check(self, x):
        """Return source ids and decoder inputs, both (B, time)."""
        if not isinstance(x, (tuple, list, np.ndarray)) or len(x) != 2:
            raise TypeError("x: expected a pair (source, target)")
        source, target = _ids("source", x[0]), _ids("target", x[1])
        if target.shape[1] != source.shape[1]:
            raise ValueError(f"target: expected {source.shape[1]} rows, got {target.shape[1]}")
        padding = target == IGNORED
        if ((target < 0) | (target >= self.target_size))[~padding].any():
            raise ValueError(
                f"target: expected ids in [0, {self.target_size}) or {IGNORED}, "
                f"got {target.min()} to {target.max()}"
            )
        inputs = np.full(target.shape, self.start, np.int64)
        inputs[1:] = np.where(padding, self.start, target)[:-1]
        return _turn(source), _turn(inputs)

    # ---- decoding

    def generate(
        self,
        source,
        lengths=None,
        max_length=100,
        *,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        seed=None,
    ) -> list[np.ndarray]:
        """Write a target for each source, token after token.

        Parameters
        ----------
        source : integer ndarray (S, B)
        lengths : (B,) integers in 0..S, optional
        max_length : int
            Most tokens of a target.
        temperature : float >= 0, default 0
            0: always the most probable token (greedy). Otherwise tokens are drawn, from logits
            divided by it.
        top_k : int, top_p : float
            Limits on what is drawn, as in `CharLM.generate`: 0 and 1 are none.
        seed : int, numpy Generator or None

        Returns
        -------
        list of B ndarrays of int64
            Ids before the first `stop`, or `max_length` of them.

        Raises
        ------
        ValueError, TypeError
            Naming the argument, what was expected and what came.
        FloatingPointError
            ``the largest logit is nan``: weights are not finite.
        """
        check_sampling(temperature, top_k, top_p)
        check_index("max_length", max_length)
        rng, run = generator(seed), _Run(self._parts, keep=False)
        memory, state = self._encode(run, _turn(_ids("source", source)), lengths)
        attend = self._parts["attention"].reader(memory, lengths)
        B = len(memory)
        written = np.empty((max_length, B), np.int64)
        length, going, ids = np.full(B, max_length), np.full(B, True), np.full((B, 1), self.start)
        for t in range(max_length):
            if not going.any():
                break
            inputs = run("embed_target", ids) if self._config["embedding"] else ids
            states, state = run("decoder", inputs, state)
            read = run("combine", np.concatenate([attend(states), states], axis=2))
            logits = run("output", np.tanh(read))[:, 0]
            written[t] = choose(logits, temperature, top_k, rng, top_p=top_p)
            if self.stop is not None:
                length[going & (written[t] == self.stop)] = t
                going &= written[t] != self.stop
            ids = written[t][:, None]
        return [written[:n, b].copy() for b, n in enumerate(length)]


class EncoderDecoderTape:
    """What `EncoderDecoder.forward` keeps: the tapes of its parts.

    Attributes
    ----------
    attention : ndarray (T, B, S)
        How much each step looks at each place of the source.
    """

    def __init__(self, model, tapes, start, read, shape):
        self._model, self._tapes = model, tapes
        self._start, self._read, self._shape = start, read, shape

    @property
    def attention(self):
        return _turn(self._tapes["attention"].weights)

    def backward(self, dy, dstate=None, *, accumulate=True):
        """Add the gradients of all parameters into ``model.grads``.

        Parameters
        ----------
        dy : ndarray (T, B, V), or None for zeros
            Gradient of the loss by the logits.
        dstate : None
        accumulate : bool, default True
            False: ``model.grads`` are set, not added to.

        Returns
        -------
        dx, dstate : None
            Ids have no gradient.
        """
        model, tapes = self._model, self._tapes
        self._check_backward(dstate)
        dlogits = _turn(check_gradient(dy, model.dtype, self._shape))
        if not accumulate:
            model.zero_grad()
        dread, _ = tapes["output"].backward(dlogits)
        dread *= 1 - self._read**2  # forward was tanh
        djoined, _ = tapes["combine"].backward(dread)
        E = djoined.shape[2] - model.hidden_size
        (dstates, dmemory), _ = tapes["attention"].backward(djoined[..., :E])
        dstates += djoined[..., E:]
        dinputs, dstart = tapes["decoder"].backward(dstates)
        if "embed_target" in tapes:
            tapes["embed_target"].backward(dinputs)
        dsource, _ = tapes["encoder"].backward(dmemory, self._to_final(dstart))
        if "embed_source" in tapes:
            tapes["embed_source"].backward(dsource)
        return None, None

    def _check_backward(self, dstate, clip_step=None):
        check_stateless(self._model, dstate, "dstate")
        check_backward(self._tapes.values(), [None] * len(self._tapes))

    def _to_final(self, dstart):
        """From the gradient of the decoder's first state to that of the encoder's final one."""
        if "bridge" not in self._tapes:
            return dstart
        pair = isinstance(dstart, tuple)
        dh, h = (dstart[0], self._start[0]) if pair else (dstart, self._start)
        dfinal = _apart(self._tapes["bridge"].backward(dh * (1 - h**2))[0])
        if not pair:
            return dfinal
        return dfinal, _apart(self._tapes["bridge_c"].backward(dstart[1])[0])


class _Run:
    """Call parts by name, with or without keeping their tapes."""

    def __init__(self, parts, keep):
        self.parts, self.keep, self.tapes = parts, keep, {}

    def __call__(self, name, x, state=None, lengths=None):
        part = self.parts[name]
        if not self.keep:
            y, final = part(x, state, lengths)
        else:
            y, final, self.tapes[name] = part.forward(x, state, lengths)
        return y if final is None else (y, final)


def _ids(name, value):
    value = _core._as_array(name, value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {value.dtype}")
    if value.ndim != 2 or not len(value):
        raise ValueError(f"{name}: expected shape (time, B) with time >= 1, got {value.shape}")
    return value


def _turn(array):
    """From time first to batch first, or back."""
    return np.ascontiguousarray(array.swapaxes(0, 1))


def _side_by_side(final):
    """(L*2, B, H) -> (L, B, 2H): both directions of a level in one row."""
    count, B, H = final.shape
    pairs = final.reshape(count // 2, 2, B, H).swapaxes(1, 2)
    return pairs.reshape(count // 2, B, 2 * H)


def _apart(joined):
    """The inverse of `_side_by_side`."""
    levels, B, width = joined.shape
    pairs = joined.reshape(levels, B, 2, width // 2).swapaxes(1, 2)
    return np.ascontiguousarray(pairs).reshape(2 * levels, B, width // 2)
