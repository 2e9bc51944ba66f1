"""A gradient of None stands for zeros, whatever made the tape."""

import numpy as np
import pytest

import fastrnn as fr

X = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
IDS = np.array([[0, 2], [1, 1], [2, 0], [1, 2]])

CASES = {
    "rnn": (fr.RNN(3, 5, seed=0), X),
    "lstm": (fr.LSTM(3, 5, 2, bidirectional=True, seed=0), X),
    "gru_of_ids": (fr.GRU(3, 5, seed=0), IDS),
    "linear": (fr.Linear(3, 2, seed=0), X),
    "embedding": (fr.Embedding(3, 2, seed=0), IDS),
    "dropout": (fr.Dropout(0.5, seed=0), X),
    "attention": (fr.AdditiveAttention(3, 3, 4, seed=0), (X, X[:3])),
    "sequential": (fr.Sequential(fr.LSTM(3, 4, seed=0), fr.Linear(4, 2, seed=0)), X),
    "nested": (fr.Sequential(fr.Sequential(fr.Embedding(3, 4)), fr.GRU(4, 2)), IDS),
    "encoder_decoder": (fr.EncoderDecoder(3, 4, "gru", 5, seed=0), (IDS, IDS)),
    "char_lm": (fr.CharLM("abc", hidden_size=4, embedding=2, seed=0), IDS),
}


def flat(tree):
    """Arrays and Nones of a tree of tuples, from left to right."""
    return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, tuple) else [tree]


@pytest.mark.parametrize("kind", CASES)
def test_no_gradient_gives_what_a_gradient_of_zeros_gives(kind):
    model, x = CASES[kind]
    y, _, tape = model.forward(x)
    model.zero_grad()
    of_none, of_zeros = flat(tape.backward(None)), flat(tape.backward(np.zeros_like(y)))
    assert not model._flat_grad.any()
    assert [a is None for a in of_none] == [a is None for a in of_zeros]
    for a, b in zip(of_none, of_zeros, strict=True):
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype and not a.any() and not b.any()


def test_linear_without_need_of_dx_gives_none():
    layer = fr.Linear(3, 2, seed=0)
    assert layer.forward(X)[2].backward(None, need_dx=False) == (None, None)
