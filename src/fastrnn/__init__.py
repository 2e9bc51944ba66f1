"""fastrnn: the fastest recurrent networks on a CPU.

RNN, LSTM and GRU, forward and backpropagation through time, on NumPy arrays, with the names,
shapes and numbers of torch.nn.

>>> import numpy as np, fastrnn as fr
>>> lstm = fr.LSTM(input_size=10, hidden_size=20, seed=0)
>>> x = np.random.default_rng(0).standard_normal((5, 3, 10), dtype=np.float32)   # T, B, I
>>> y, (h, c), tape = lstm.forward(x)
>>> loss, dy = fr.mse(y, np.zeros_like(y))
>>> dx, dstate = tape.backward(dy)               # fills lstm.grads
>>> fr.optim.Adam(lstm, lr=1e-3).step()
"""

from fastrnn import optim
from fastrnn._version import __version__
from fastrnn.checkpoint import load, save
from fastrnn.clip import clip_grad_norm_, clip_grad_value_
from fastrnn.config import get_num_threads, set_num_threads, show_config
from fastrnn.gradcheck import gradcheck
from fastrnn.layers import GRU, LSTM, RNN, Dropout, Embedding, Linear, Sequential, Stream
from fastrnn.losses import bce_with_logits, cross_entropy, mse
from fastrnn.module import Module

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Linear",
    "Module",
    "Sequential",
    "Stream",
    "__version__",
    "bce_with_logits",
    "clip_grad_norm_",
    "clip_grad_value_",
    "cross_entropy",
    "get_num_threads",
    "gradcheck",
    "load",
    "mse",
    "optim",
    "save",
    "set_num_threads",
    "show_config",
]
