"""A language model over characters: recurrent layers between one-hot characters and a softmax.

Graves 2013, "Generating sequences with recurrent neural networks"; Karpathy 2015, "The unreasonable
effectiveness of recurrent neural networks". Training it is `fastrnn.training`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from ..data import Vocabulary
from ..layers import GRU, LSTM, RNN, Embedding, Linear, Sequential
from ..layers._checks import check_index, generator
from ..sampling import check_sampling, choose

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class CharLM(Sequential):
    """Predict the next character of a text from those before it.

    Characters go in as integer ids, straight into the recurrent layers (the same as one-hot rows,
    never built) or through an embedding; a linear layer gives the logits of the next character.

    Parameters
    ----------
    vocabulary : str
        The characters it knows, sorted; a character's id is its place.
    cell : {"lstm", "gru", "rnn"}
    hidden_size, num_layers : int
    embedding : int
        Width of the embedding; 0 means none.
    dropout : float
        Between recurrent layers.
    dtype : {"float32", "float64"}
    seed : int, numpy Generator or None
        For the initial weights.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came: ``cell: expected one of rnn, lstm,
        gru, got 'elman'``, ``vocabulary: expected sorted and distinct characters, got 'ba'``.

    Examples
    --------
    >>> from fastrnn.models import CharLM
    >>> model = CharLM("abc", "gru", hidden_size=8, seed=0)
    >>> logits, state = model(model.vocabulary.encode("abba").reshape(4, 1))
    >>> logits.shape
    (4, 1, 3)
    >>> len("".join(model.generate("ab", 10, seed=0)))
    10
    """

    def __init__(
        self,
        vocabulary: str,
        cell: str = "lstm",
        hidden_size: int = 128,
        num_layers: int = 1,
        embedding: int = 0,
        dropout: float = 0.0,
        *,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        check_cell(cell)
        embedding = check_index("embedding", embedding)
        self.vocabulary = Vocabulary(vocabulary)
        size = len(self.vocabulary)
        seeds = spawn_seeds(seed)
        layers = [Embedding(size, embedding, dtype=dtype, seed=seeds[0])] if embedding else []
        layers += [
            CELLS[cell](
                embedding or size,
                hidden_size,
                num_layers,
                dropout=dropout,
                dtype=dtype,
                seed=seeds[1],
            ),
            Linear(hidden_size, size, dtype=dtype, seed=seeds[2]),
        ]
        super().__init__(*layers)
        self._cell, self._embedding = cell, embedding

    def config(self) -> dict:
        """Return the constructor's arguments, without the seed."""
        recurrent = self.layers[-2]
        return {
            "vocabulary": self.vocabulary.characters,
            "cell": self._cell,
            "hidden_size": recurrent.hidden_size,
            "num_layers": recurrent.num_layers,
            "embedding": self._embedding,
            "dropout": recurrent.dropout,
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> CharLM:
        """Build a model from what `config` returned; its parameters are fresh."""
        return cls(**config)

    def generate(
        self,
        prime: str = "",
        length: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Go on from a text, character by character.

        Parameters
        ----------
        prime : str
            Read first, and not returned. If empty, the text goes on from a line break (or from the
            first character of a vocabulary that has none).
        length : int or None
            How many characters; None: without end.
        temperature : float >= 0
            The logits are divided by it: below 1 for safer, above 1 for bolder text. 0: always the
            most probable character.
        top_k : int >= 0
            Draw only among the `top_k` most probable characters; 0: among all.
        top_p : float in (0, 1]
            Draw only among the most probable characters that together reach this probability.
        seed : int, numpy Generator or None

        Yields
        ------
        str
            One character at a time.

        Raises
        ------
        ValueError
            At once, not at the first character: if `prime` has characters that are not in the
            vocabulary, or a number is out of its range.
        TypeError
            At once, too: ``prime: expected a str, got int``, ``length: expected an integer >= 0,
            got str``.
        FloatingPointError
            ``the largest logit is nan``: weights are not finite.
        """
        check_sampling(temperature, top_k, top_p)
        if length is not None:
            check_index("length", length)
        rng = generator(seed)
        ids = self.vocabulary.encode(prime, "prime")
        if not len(ids):
            newline = self.vocabulary.characters.find("\n")
            ids = np.array([max(newline, 0)])
        return self._generate(ids, length, temperature, top_k, top_p, rng)

    def _generate(self, ids, length, temperature, top_k, top_p, rng):
        state = None
        for _ in range(length) if length is not None else count():
            logits, state = self(ids.reshape(-1, 1), state)
            ids = np.array([choose(logits[-1, 0], temperature, top_k, rng, top_p=top_p)])
            yield self.vocabulary.characters[ids[0]]


def check_cell(cell) -> None:
    """Refuse a name that is none of a recurrent layer."""
    if not isinstance(cell, str) or cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")


def spawn_seeds(seed, count=3):
    """Return independent seeds for the layers: equal ones would give layers equal weights."""
    if seed is None:
        return [None] * count
    if isinstance(seed, np.random.Generator):
        return [int(s) for s in seed.integers(2**32, size=count)]
    generator(seed)  # for its message
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count)]
