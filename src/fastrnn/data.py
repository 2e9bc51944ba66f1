"""Text as training data: a corpus, its characters as integer ids, and parallel streams of chunks.

This is what a character model reads, and no general data loader: one sequence of ids that fits in
memory, walked in the order that truncated back-propagation through time needs (`Streams`), or once
from end to end to be measured (`Whole`).
"""

from __future__ import annotations

import numpy as np

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
        """
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
        """Return the text that a sequence of ids in [0, len(self)) stands for."""
        return "".join(self.characters[i] for i in ids)


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
    ids : ndarray of int64, shape (n,), n > B*T
    batch_size, seq_len : int
        B and T.
    seed : int or None
        None: every epoch starts at offset 0.

    Raises
    ------
    ValueError
        If the sequence is shorter than one chunk and its targets.

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

    def __init__(self, ids: np.ndarray, batch_size: int, seq_len: int, seed: int | None = None):
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
    ids : ndarray of int64, shape (n,), n >= 2
    batch_size, seq_len : int

    Raises
    ------
    ValueError
        If there is nothing to predict.

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

    def __init__(self, ids: np.ndarray, batch_size: int, seq_len: int):
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


def _chunks(x, target, streams, seq_len):
    """Cut two sequences into time-major chunks, each a view of one (steps, streams) array."""
    x, target = (np.ascontiguousarray(a.reshape(streams, -1).T) for a in (x, target))
    return [(x[t : t + seq_len], target[t : t + seq_len]) for t in range(0, len(x), seq_len)]
