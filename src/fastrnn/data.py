"""What a `fastrnn.Trainer` reads, all of it in memory: text as streams, and arrays as batches.

Text is one long sequence of ids, walked in the order that truncated back-propagation through time
needs (`Streams`), or once from end to end to be measured (`Whole`). Many separate sequences are
padded to one array (`pad_sequences`) and drawn in batches (`Batches`).

The protocol of all three: ``epoch(number)`` returns the chunks of that epoch, always the same for
the same number, as a sequence of ``(x, target)`` or ``(x, target, lengths)``; `carries_state` says
whether a chunk goes on where the previous one ended. So the number of an epoch and a position are
all that a resumed training has to know of its data.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import numpy as np

from ._core import _as_array, _as_integers
from .layers._checks import check_positive

IGNORED = -100  # the target that `fastrnn.cross_entropy` does not count, by default


def builtin_corpus() -> str:
    """Return about 460,000 characters of English that every Python carries.

    It is the text behind ``help("if")``: the language reference, one topic after another in
    alphabetical order. It is the same wherever the Python version is the same.

    Returns
    -------
    str

    Raises
    ------
    RuntimeError
        If this Python was stripped of `pydoc_data`, as some minimal distributions are.

    Examples
    --------
    >>> from fastrnn.data import builtin_corpus
    >>> len(builtin_corpus()) > 100_000
    True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise RuntimeError(
            "the built-in corpus (pydoc_data.topics of the standard library) is missing from this "
            "Python: name a text file instead"
        ) from None
    return "\n\n".join(topics[name].rstrip() for name in sorted(topics)) + "\n"


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class Vocabulary:
    """The distinct characters of a text, sorted; a character's id is its place.

    Parameters
    ----------
    characters : str
        At least one character, in increasing order, none twice.

    Raises
    ------
    ValueError
        If the characters are not sorted and distinct, or there are none.
    TypeError
        ``vocabulary: expected a str, got NoneType``.

    Examples
    --------
    >>> from fastrnn.data import Vocabulary
    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary.characters, vocabulary.encode("hole").tolist()
    ('ehlo', [1, 3, 2, 0])
    >>> vocabulary.decode([1, 3, 2, 0])
    'hole'
    """

    def __init__(self, characters: str):
        _check_text("vocabulary", characters)
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError(
                f"vocabulary: expected sorted and distinct characters, got {characters!r}"
            )
        self.characters = characters
        self._points = _code_points(characters)

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the vocabulary of all characters that occur in `text`."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, name: str = "text") -> np.ndarray:
        """Return the ids of a text's characters.

        Parameters
        ----------
        text : str
        name : str
            What to call the text in an error.

        Returns
        -------
        ndarray of int64, shape (len(text),)

        Raises
        ------
        ValueError
            If characters of the text are not in the vocabulary; the message names them.
        TypeError
            ``text: expected a str, got bytes``.
        """
        _check_text(name, text)
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        ids[ids == len(self)] = 0
        unknown = self._points[ids] != points
        if unknown.any():
            names = [repr(chr(point)) for point in np.unique(points[unknown])]
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            raise ValueError(
                f"{name}: expected only the {len(self)} characters of the vocabulary, "
                f"got {', '.join(names[:10])}{more}"
            )
        return ids.astype(np.int64, copy=False)

    def decode(self, ids) -> str:
        """Return the text that a sequence of ids in [0, len(self)) stands for.

        Raises
        ------
        ValueError
            ``ids: expected values in [0, 65), got -1``.
        """
        ids = list(ids)
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"ids: expected values in [0, {len(self)}), got {i}")
        return "".join(self.characters[i] for i in ids)


def _check_text(name, text) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a str, got {type(text).__name__}")


def split(ids: np.ndarray, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut a sequence into a training part and, from its end, a validation part.

    Parameters
    ----------
    ids : ndarray, shape (n,)
    val_fraction : float in [0, 1)
        0 leaves the validation part empty.

    Returns
    -------
    train, validation : ndarray
        Views. The training part has ``int(n * (1 - val_fraction))`` entries.

    Raises
    ------
    ValueError
        If the fraction is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.data import split
    >>> train, validation = split(np.arange(1_115_394), 0.1)
    >>> len(train), len(validation)
    (1003854, 111540)
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction: expected a number in [0, 1), got {val_fraction}")
    cut = int(len(ids) * (1 - val_fraction))
    return ids[:cut], ids[cut:]


class Streams:
    """A sequence as B parallel streams in chunks of T steps; the targets are the next ids.

    ::

        ids        a b c d e f g h i j k l m          B = 2, T = 3: two chunks an epoch
        stream 0   a b c | d e f      targets   b c d | e f g
        stream 1   g h i | j k l                h i j | k l m

    A chunk goes on where the previous one ended, in every stream, so the recurrent state can be
    carried along. What is left over, fewer than B*T ids, is skipped at another place each epoch:
    epoch `e` starts at an offset drawn from (`seed`, e). So the borders of the chunks, which no
    gradient passes, move; and an interrupted run goes on as it would have without the state of a
    random generator.

    Parameters
    ----------
    ids : array-like of integers, shape (n,), n > B*T
    batch_size, seq_len : int
        B and T.
    seed : int or None
        None: every epoch starts at offset 0.

    Raises
    ------
    ValueError
        If the sequence is shorter than one chunk and its targets; ``seq_len: expected 1 or more,
        got 0``, ``ids: expected one axis, got shape (2, 5)``, ``seed: expected None or an integer
        of 0 or more, got -1``.
    TypeError
        ``ids: expected integers, got float64``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.data import Streams
    >>> for x, target in Streams(np.arange(13), batch_size=2, seq_len=3).epoch(0):
    ...     print(x.T.tolist(), target.T.tolist())
    [[0, 1, 2], [6, 7, 8]] [[1, 2, 3], [7, 8, 9]]
    [[3, 4, 5], [9, 10, 11]] [[4, 5, 6], [10, 11, 12]]
    """

    carries_state = True

    def __init__(self, ids, batch_size: int, seq_len: int, seed: int | None = None):
        batch_size = check_positive("batch_size", batch_size)
        seq_len = check_positive("seq_len", seq_len)
        ids = _as_ids(ids)
        if seed is not None and not _is_seed(seed):
            raise ValueError(f"seed: expected None or an integer of 0 or more, got {seed!r}")
        if len(ids) <= batch_size * seq_len:
            raise ValueError(
                f"text: expected more than batch size x sequence length = {batch_size} x {seq_len} "
                f"= {batch_size * seq_len} characters to train on, got {len(ids)}"
            )
        self.ids, self.batch_size, self.seq_len, self.seed = ids, batch_size, seq_len, seed

    def __len__(self) -> int:
        """Return the number of chunks in an epoch."""
        return (len(self.ids) - 1) // (self.batch_size * self.seq_len)

    def epoch(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the chunks of one epoch: pairs (x, target) of shape (T, B), C-contiguous."""
        used = len(self) * self.batch_size * self.seq_len
        start = 0
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, number])
            start = int(rng.integers(len(self.ids) - used))
        x, target = self.ids[start : start + used], self.ids[start + 1 : start + 1 + used]
        return _chunks(x, target, self.batch_size, self.seq_len)


class Whole:
    """Every id of a sequence predicted exactly once: what a validation loss is measured over.

    For speed the sequence is cut into up to `batch_size` streams, of at least `seq_len` steps each.
    The end is padded with targets that do not count; the last chunk may be shorter.

    Parameters
    ----------
    ids : array-like of integers, shape (n,), n >= 2
    batch_size, seq_len : int

    Raises
    ------
    ValueError, TypeError
        If there is nothing to predict; else as `Streams`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.data import Whole
    >>> for x, target in Whole(np.arange(6), batch_size=2, seq_len=2).epoch(0):
    ...     print(x.T.tolist(), target.T.tolist())
    [[0, 1], [3, 4]] [[1, 2], [4, 5]]
    [[2], [0]] [[3], [-100]]
    """

    carries_state = True

    def __init__(self, ids, batch_size: int, seq_len: int):
        batch_size = check_positive("batch_size", batch_size)
        seq_len = check_positive("seq_len", seq_len)
        ids = _as_ids(ids).astype(np.int64, copy=False)  # `IGNORED` does not fit into all integers
        inputs = len(ids) - 1
        if inputs < 1:
            raise ValueError(f"text: expected at least 2 characters to validate on, got {len(ids)}")
        streams = max(1, min(batch_size, inputs // seq_len))
        padding = np.zeros(-inputs % streams, ids.dtype)
        x = np.concatenate([ids[:-1], padding])
        target = np.concatenate([ids[1:], padding + IGNORED])
        self._pairs = _chunks(x, target, streams, seq_len)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._pairs)

    def epoch(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the chunks, pairs (x, target) of shape (T, B); the same for every number."""
        return self._pairs


def _as_ids(ids) -> np.ndarray:
    ids = _as_integers("ids", ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids: expected integers, got {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"ids: expected one axis, got shape {ids.shape}")
    return ids


def _is_seed(seed) -> bool:
    return isinstance(seed, (int, np.integer)) and int(seed) >= 0


def _chunks(x, target, streams, seq_len):
    """Cut two sequences into time-major chunks, each a view of one (steps, streams) array."""
    x, target = (np.ascontiguousarray(a.reshape(streams, -1).T) for a in (x, target))
    return [(x[t : t + seq_len], target[t : t + seq_len]) for t in range(0, len(x), seq_len)]


class Batches:
    """Separate sequences, or plain samples, in batches: in another order each epoch.

    Parameters
    ----------
    x : array-like (T, N, ...), or with batch_first (N, T, ...); or tuple of arrays
        N sequences: features, or integer token ids. Without a time axis, (N, ...) and batch_first.
        A tuple, of such arrays with any T each, is for a model that takes one, such as the
        ``(source, target)`` of `fastrnn.EncoderDecoder`.
    y : array-like, optional
        Targets: one for each step, (T, N, ...) or (N, T, ...) as x; or one for each sequence,
        (N, ...). Without `batch_first` the first is meant if the first two axes are those of x.
        None: for `Trainer.predict` alone.
    batch_size : int, default 32
        The last batch of an epoch may be smaller.
    shuffle : bool, default True
        Epoch `e` takes the sequences in an order drawn from (`seed`, e); otherwise as they come.
    seed : int, default 0
    lengths : array-like of N integers in 0..T, optional
        Steps of each sequence, e.g. from `pad_sequences`: handed to the model. Where y has an
        integer for each step, those past the end become `IGNORED`, which `fastrnn.cross_entropy`
        does not count. Real targets stay as they are, and so count: mask them in the loss. Beside a
        tuple x the lengths are those of its first array, and y stays as it is.
    batch_first : bool, default False
        As in the model's layers.

    Raises
    ------
    ValueError
        ``y: expected 10 sequences on axis 1, as in x, got 9``, ``lengths: expected 10 integers from
        0 to 5, got ...``, ``batch_size: expected at least 1, got 0``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.data import Batches
    >>> x, y = np.arange(10).reshape(2, 5), np.arange(5)  # T = 2, N = 5
    >>> for chunk, target in Batches(x, y, batch_size=2, shuffle=False).epoch(0):
    ...     print(chunk.tolist(), target.tolist())
    [[0, 1], [5, 6]] [0, 1]
    [[2, 3], [7, 8]] [2, 3]
    [[4], [9]] [4]
    """

    carries_state = False

    def __init__(
        self, x, y=None, batch_size=32, shuffle=True, seed=0, *, lengths=None, batch_first=False
    ):
        several = isinstance(x, tuple) and len(x) > 0
        self.x = tuple(_as_array("x", part) for part in x) if several else _as_array("x", x)
        arrays = self.x if several else (self.x,)
        try:
            self.batch_size = operator.index(batch_size)
        except TypeError:
            kind = type(batch_size).__name__
            raise TypeError(f"batch_size: expected an integer, got {kind}") from None
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self._axis = 0 if batch_first else 1
        for array in arrays:
            if array.ndim <= self._axis:
                raise ValueError(
                    f"x: expected at least {self._axis + 1} axes, got shape {array.shape}"
                    + ("" if batch_first else "; samples without a time axis need batch_first=True")
                )
        self._count = arrays[0].shape[self._axis]
        if not self._count or any(array.shape[self._axis] != self._count for array in arrays):
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise ValueError(
                f"x: expected at least one sequence on axis {self._axis}, and as many in each "
                f"array, got shape {shapes}"
            )
        if shuffle and not _is_seed(seed):
            raise ValueError(f"seed: expected an integer of 0 or more, got {seed!r}")
        self.shuffle, self.seed = bool(shuffle), seed
        self.y = None if y is None else _as_array("y", y)
        self._target_axis = self._axis
        each_step = self.y is not None and any(
            array.ndim > 1 and self.y.shape[:2] == array.shape[:2] for array in arrays
        )
        if self.y is not None:
            if not each_step:
                self._target_axis = 0
            if self.y.ndim == 0 or self.y.shape[self._target_axis] != self._count:
                raise ValueError(
                    f"y: expected {self._count} sequences on axis {self._target_axis}, as in x, "
                    f"got shape {self.y.shape}"
                )
        self.lengths = None
        if lengths is not None:
            steps = arrays[0].shape[1 - self._axis] if arrays[0].ndim > 1 else 0
            self.lengths = _checked_lengths(lengths, self._count, steps)
            if each_step and not several and self.y.dtype.kind in "iu":
                padding = np.arange(steps)[:, None] >= self.lengths
                padding = padding.T if batch_first else padding
                where = padding.reshape(padding.shape + (1,) * (self.y.ndim - 2))
                self.y = np.where(where, IGNORED, self.y.astype(np.int64, copy=False))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self._count // self.batch_size)

    def epoch(self, number: int) -> Sequence:
        """Return the batches of one epoch; each is gathered when it is asked for.

        A batch is ``(x, y)`` or ``(x, y, lengths)``, C-contiguous arrays.
        """
        order = np.arange(self._count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, number]).permutation(self._count)
        return _Epoch(self, order)

    def _gather(self, rows):
        if isinstance(self.x, tuple):
            x = tuple(array.take(rows, self._axis) for array in self.x)
        else:
            x = self.x.take(rows, self._axis)
        y = None if self.y is None else self.y.take(rows, self._target_axis)
        return (x, y) if self.lengths is None else (x, y, self.lengths[rows])


class _Epoch(Sequence):
    """The batches of one order, made one at a time: an epoch costs no copy of the data."""

    def __init__(self, data, order):
        self._data, self._order = data, order

    def __len__(self):
        return len(self._data)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"batch: expected {-len(self)} to {len(self) - 1}, got {i}")
        i, size = i % len(self), self._data.batch_size
        return self._data._gather(self._order[i * size : (i + 1) * size])


def pad_sequences(sequences, batch_first=False, value=0) -> tuple[np.ndarray, np.ndarray]:
    """Put sequences of different length into one array.

    Parameters
    ----------
    sequences : sequence of array-like (T_b, ...)
        At least one; all of one shape but for their first axis. A length may be 0.
    batch_first : bool, default False
    value : number, default 0
        What comes after a sequence's end. Layers that are given the lengths never read it.

    Returns
    -------
    padded : ndarray (T, B, ...), or with batch_first (B, T, ...)
        T is the largest length; the dtype is the common one of the sequences.
    lengths : (B,) int64
        For ``layer(padded, lengths=lengths)``.

    Raises
    ------
    ValueError
        ``sequences: expected at least one, got none``, ``sequence 2: expected shape (steps, 3), as
        of sequence 0, got (5, 4)``, ``value: -100 does not fit into uint8``.

    Examples
    --------
    >>> import fastrnn as fr
    >>> padded, lengths = fr.pad_sequences([[1, 2, 3], [4], [5, 6]], batch_first=True)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0], [5, 6, 0]], [3, 1, 2])
    """
    if not isinstance(sequences, Iterable):
        kind = type(sequences).__name__
        raise TypeError(f"sequences: expected a sequence of arrays, got {kind}")
    arrays = [_as_array(f"sequence {i}", s) for i, s in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences: expected at least one, got none")
    for i, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
            rest = "".join(f", {n}" for n in arrays[0].shape[1:]) or ","
            raise ValueError(
                f"sequence {i}: expected shape (steps{rest}), as of sequence 0, got {array.shape}"
            )
    # An empty list is float64 to NumPy, and would turn token ids into floats.
    dtype = np.result_type(*([a.dtype for a in arrays if len(a)] or [arrays[0].dtype]))
    if isinstance(value, np.floating):
        value = float(value)  # rounded like the sequences themselves, as a Python float is
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            fill = np.asarray(value).astype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"value: expected a number, got {value!r}") from None
    if fill.ndim or not (fill == value or (fill != fill and value != value)):
        raise ValueError(f"value: {value} does not fit into {dtype}")
    lengths = np.array([len(a) for a in arrays], np.int64)
    padded = np.full((len(arrays), lengths.max(), *arrays[0].shape[1:]), fill, dtype)
    if not batch_first:
        padded = np.ascontiguousarray(padded.swapaxes(0, 1))
    rows = padded if batch_first else padded.swapaxes(0, 1)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def unpad_sequences(padded, lengths, batch_first=False) -> list[np.ndarray]:
    """Take the sequences out of a padded array: the inverse of `pad_sequences`.

    Parameters
    ----------
    padded : array-like (T, B, ...), or with batch_first (B, T, ...)
    lengths : array-like of B integers in 0..T
    batch_first : bool, default False

    Returns
    -------
    list of ndarray (T_b, ...)
        Views into `padded`.

    Raises
    ------
    ValueError
        ``lengths: expected 3 integers from 0 to 5, got [6, 1, 2]``.

    Examples
    --------
    >>> import fastrnn as fr
    >>> [s.tolist() for s in fr.unpad_sequences(*fr.pad_sequences([[1, 2, 3], [4]]))]
    [[1, 2, 3], [4]]
    """
    padded = np.asarray(padded)
    if padded.ndim < 2:
        raise ValueError(f"padded: expected at least 2 axes, got shape {padded.shape}")
    rows = padded if batch_first else padded.swapaxes(0, 1)
    lengths = _checked_lengths(lengths, *rows.shape[:2])
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


def _checked_lengths(lengths, count, steps) -> np.ndarray:
    array = _as_integers("lengths", lengths)
    fits = array.shape == (count,) and array.dtype.kind in "iu"
    if not fits or (count and not (array.min() >= 0 and array.max() <= steps)):
        given = array.tolist() if array.size <= 10 else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"lengths: expected {count} integers from 0 to {steps}, got {given}")
    return array.astype(np.int64)
