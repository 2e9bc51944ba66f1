"""The layers, one file a kind. All share one protocol: see `fastrnn.module.Module`."""

from fastrnn.layers.attention import AdditiveAttention
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.linear import Linear
from fastrnn.layers.recurrent import GRU, LSTM, RNN
from fastrnn.layers.sequential import Sequential
from fastrnn.layers.stream import Stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "Dropout",
    "Embedding",
    "Linear",
    "Sequential",
    "Stream",
]
