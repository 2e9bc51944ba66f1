"""Additive attention (Bahdanau): which places of a memory to look at, for many queries at once.

Nothing here runs step by step: the queries of all steps are given, so scores, softmax and contexts
are products over whole sequences. The one large thing, the tanh of every query with every place,
stays in the registers of csrc/attention.c; backward makes it anew, and nobody keeps it."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..module import Module
from ._checks import Fixed, check_gradient, check_positive, check_stateless, generator


class AdditiveAttention(Module):
    """For each query the weighted mean of a memory, weighted by how well they fit together.

    Parameters
    ----------
    query_size, memory_size : int
        Widths Q of the queries and E of the memory.
    attention_size : int
        Width M of the hidden layer that scores them.
    batch_first : bool, default False
        Whether the arrays start with the batch, and not with time.
    dtype : {"float32", "float64"}
    seed : int or numpy Generator, optional
        Of the initial values, uniform in ±1/sqrt(Q), ±1/sqrt(E) and ±1/sqrt(M).

    Attributes
    ----------
    params, grads : dict
        ``weight_query`` (M, Q), ``bias`` (M,), ``weight_memory`` (M, E), ``weight_score`` (M,).

    Raises
    ------
    TypeError, ValueError
        ``query_size: expected 1 or more, got 0``, and so for each argument.

    Notes
    -----
    (E4) to (E7), backward (E10) to (E13) of docs/math.md. Bahdanau, Cho & Bengio 2015.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.AdditiveAttention(4, 6, 5, seed=0)
    >>> query, memory = np.ones((2, 3, 4), np.float32), np.ones((7, 3, 6), np.float32)
    >>> context, _, tape = layer.forward((query, memory), lengths=[7, 1, 3])
    >>> context.shape, tape.weights.shape          # (T, B, E), (T, B, S)
    ((2, 3, 6), (2, 3, 7))
    >>> tape.weights[0, 1]
    array([1., 0., 0., 0., 0., 0., 0.], dtype=float32)
    """

    query_size, memory_size, attention_size = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        query_size,
        memory_size,
        attention_size,
        batch_first=False,
        *,
        dtype="float32",
        seed=None,
    ):
        self.query_size = check_positive("query_size", query_size)
        self.memory_size = check_positive("memory_size", memory_size)
        self.attention_size = M = check_positive("attention_size", attention_size)
        self.batch_first = bool(batch_first)
        shapes = [
            ("weight_query", (M, self.query_size)),
            ("bias", (M,)),
            ("weight_memory", (M, self.memory_size)),
            ("weight_score", (M,)),
        ]
        self._allocate(shapes, dtype)
        rng = generator(seed)
        inputs = {"weight_memory": self.memory_size, "weight_score": M}
        for name, array in self._params.items():
            bound = inputs.get(name, self.query_size) ** -0.5
            array[...] = rng.uniform(-bound, bound, array.shape)
        self._touch()

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        return {
            "query_size": self.query_size,
            "memory_size": self.memory_size,
            "attention_size": self.attention_size,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }

    def __call__(self, x, state=None, lengths=None):
        """Attend without keeping anything.

        Parameters
        ----------
        x : pair of ndarray
            Queries (T, B, Q) and memory (S, B, E), both of the layer's dtype.
        state : None
        lengths : (B,) integers in 0..S, optional
            Places of the memory that a row may look at. A row of length 0 gets a context of 0.

        Returns
        -------
        context : ndarray (T, B, E)
        state : None

        Raises
        ------
        TypeError, ValueError
            Naming ``query``, ``memory`` or ``lengths``, what was expected and what came.
        """
        query, memory, lengths = self._check(x, state, lengths)
        context, _, _ = self._attend(query, memory, self._keys(memory), lengths)
        return self._turn(context), None

    def forward(self, x, state=None, lengths=None):
        """Attend and also return a tape, with ``tape.weights`` of shape (T, B, S).

        ``tape.backward(dcontext)`` returns ``((dquery, dmemory), None)``.

        Parameters
        ----------
        x, state, lengths
            As in a call.

        Returns
        -------
        context : ndarray (T, B, E)
        state : None
        tape : AdditiveAttentionTape

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        query, memory, lengths = self._check(x, state, lengths)
        keys = self._keys(memory)
        context, weights, queries = self._attend(query, memory, keys, lengths)
        tape = AdditiveAttentionTape(self, query, memory, lengths, queries, keys, weights)
        return self._turn(context), None, tape

    def reader(self, memory, lengths=None):
        """Return a function from queries to contexts for one memory, whose keys are made once.

        Parameters
        ----------
        memory : ndarray (S, B, E)
        lengths : (B,) integers in 0..S, optional

        Returns
        -------
        callable
            ``read(query)`` with a query (T, B, Q) returns the context (T, B, E): one step at a time
            when decoding. It takes the weights as they are when it is called.

        Raises
        ------
        TypeError, ValueError
            Naming ``memory`` or ``lengths``, what was expected and what came.
        """
        memory = _core._as_array("memory", memory)
        if memory.ndim != 3:
            raise ValueError(f"memory: expected 3 axes, got shape {memory.shape}")
        B, Q = memory.shape[0 if self.batch_first else 1], self.query_size
        none = np.empty((B, 0, Q) if self.batch_first else (0, B, Q), self.dtype)
        _, memory, lengths = self._check((none, memory), None, lengths)
        keys = self._keys(memory)

        def read(query):
            return self._turn(self._attend(self._turn(query), memory, keys, lengths)[0])

        return read

    def _check(self, x, state, lengths):
        """Return query and memory, batch first, and lengths (B,)."""
        check_stateless(self, state)
        if not isinstance(x, (tuple, list, np.ndarray)) or len(x) != 2:
            raise TypeError("x: expected a pair (query, memory)")
        arrays = []
        axes = "B, {}" if self.batch_first else "{}, B"
        for name, array, time, width in (
            ("query", x[0], "T", self.query_size),
            ("memory", x[1], "S", self.memory_size),
        ):
            array = _core._as_array(name, array)
            if array.dtype != self.dtype:
                raise TypeError(f"{name}: expected {self.dtype}, got {array.dtype}")
            if array.ndim != 3 or array.shape[2] != width:
                expected = f"({axes.format(time)}, {width})"
                raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
            arrays.append(self._turn(array))
        query, memory = arrays
        B, S = memory.shape[:2]
        if len(query) != B:
            raise ValueError(f"query: expected {B} rows like memory, got {len(query)}")
        if lengths is None:
            return query, memory, np.full(B, S, np.int64)
        lengths = _check_lengths(lengths, B, S)
        # What lies beyond a row has a weight of 0, through which NaN would get.
        return query, np.where(_live(lengths, S)[..., None], memory, 0), lengths

    def _turn(self, array):
        """To batch first, which is how everything is stored here, or back."""
        return np.ascontiguousarray(array if self.batch_first else array.swapaxes(0, 1))

    def _keys(self, memory):
        return _product(memory, self._params["weight_memory"])  # (E4)

    def _attend(self, query, memory, keys, lengths):
        """Return context (B, T, E), weights (B, T, S), and the mapped queries (B, T, M)."""
        queries = _product(query, self._params["weight_query"], self._params["bias"])  # (E4)
        (B, T, _), S = queries.shape, keys.shape[1]
        v = self._params["weight_score"]
        scores = _core.attention_scores(queries, keys, v, lengths)  # (E5)
        weights = _softmax(scores, _live(lengths, S)[:, None])  # (E6)
        context = np.empty((B, T, self.memory_size), self.dtype)
        for b in range(B):
            _core.matmul(weights[b], memory[b], context[b])  # (E7)
        return context, weights, queries


class AdditiveAttentionTape:
    """What `AdditiveAttention.forward` keeps.

    Attributes
    ----------
    weights : ndarray (T, B, S), or with batch_first (B, T, S)
        How much each query looks at each place; the sum over places is 1 (0 for an empty row).
    """

    def __init__(self, layer, query, memory, lengths, queries, keys, weights):
        self._layer, self._weights_were = layer, _core.fingerprint(layer._flat)
        self._query, self._memory, self._lengths = query, memory, lengths
        self._queries, self._keys, self._weights = queries, keys, weights

    @property
    def weights(self):
        return self._layer._turn(self._weights)

    def backward(self, dy, dstate=None, *, accumulate=True):
        """Add the gradients of the parameters into ``layer.grads``; return those of the inputs.

        Parameters
        ----------
        dy : ndarray like the context, or None for zeros
        dstate : None
        accumulate : bool, default True
            False: ``layer.grads`` are set, not added to.

        Returns
        -------
        dx : (dquery, dmemory)
        dstate : None

        Raises
        ------
        RuntimeError
            If the weights have changed since `forward`.
        """
        layer, memory, weights = self._layer, self._memory, self._weights
        self._check_backward(dstate)
        (B, T, _), E = weights.shape, layer.memory_size
        shape = (B, T, E) if layer.batch_first else (T, B, E)
        dcontext = layer._turn(check_gradient(dy, layer.dtype, shape))
        if not accumulate:
            layer.zero_grad()

        dweights, dmemory = np.empty_like(weights), np.empty_like(memory)
        for b in range(B):  # forward was context = weights memory
            _core.matmul(dcontext[b], memory[b], dweights[b], transpose_b=True)  # (E10)
            _core.matmul(weights[b], dcontext[b], dmemory[b], transpose_a=True)
        mean = np.einsum("bts,bts->bt", weights, dweights)
        dscores = weights * (dweights - mean[..., None])  # (E11)

        v, grads = layer._params["weight_score"], layer._grads
        dqueries, dkeys, dv = _core.attention_backward(
            self._queries, self._keys, v, self._lengths, dscores
        )  # (E12)
        grads["weight_score"] += dv
        dquery = np.zeros_like(self._query)
        _back(dqueries, self._query, layer._params["weight_query"], dquery, grads["weight_query"])
        grads["bias"] += dqueries.sum((0, 1))
        _back(dkeys, memory, layer._params["weight_memory"], dmemory, grads["weight_memory"])
        return (layer._turn(dquery), layer._turn(dmemory)), None  # (E13)

    def _check_backward(self, dstate, clip_step=None):
        check_stateless(self._layer, dstate, "dstate")
        if _core.fingerprint(self._layer._flat) != self._weights_were:
            raise RuntimeError("backward: the parameters have changed since forward")


def _check_lengths(lengths, B, S) -> np.ndarray:
    """Return (B,) int64: the places of each row."""
    lengths = _core._as_integers("lengths", lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.shape != (B,):
        raise ValueError(f"lengths: expected shape ({B},), got {lengths.shape}")
    if ((lengths < 0) | (lengths > S)).any():
        raise ValueError(
            f"lengths: expected values from 0 to {S}, got {lengths.min()} to {lengths.max()}"
        )
    return np.ascontiguousarray(lengths, np.int64)


def _live(lengths, S):
    """Return (B, S): which places a row may look at."""
    return np.arange(S) < lengths[:, None]


def _softmax(scores, live):
    """Softmax over the live places of the last axis; zeros if there are none."""
    scores = np.where(live, scores, -np.inf)
    largest = scores.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isneginf(largest), 0, largest))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _product(x, weight, bias=None):
    """x weight^T + bias over the last axis of (B, T, I)."""
    y = np.empty((*x.shape[:2], len(weight)), x.dtype)
    if y.size:
        rows = x.reshape(-1, x.shape[2])
        _core.matmul(rows, weight, y.reshape(-1, len(weight)), transpose_b=True, bias=bias)
    return y


def _back(dy, x, weight, dx, dweight):
    """Backward of `_product`: adds into dx and dweight."""
    if not dy.size:
        return
    rows = dy.reshape(-1, dy.shape[2])
    _core.matmul(rows, weight, dx.reshape(-1, x.shape[2]), accumulate=True)
    _core.matmul(rows, x.reshape(-1, x.shape[2]), dweight, transpose_a=True, accumulate=True)
