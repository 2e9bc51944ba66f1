"""fastrnn: fast recurrent networks on a CPU.

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

import importlib

from fastrnn import optim
from fastrnn._version import __version__
from fastrnn.checkpoint import load, save
from fastrnn.clip import clip_grad_norm_, clip_grad_value_
from fastrnn.config import get_num_threads, set_num_threads, show_config
from fastrnn.gradcheck import gradcheck
from fastrnn.layers import (
    GRU,
    LSTM,
    RNN,
    AdditiveAttention,
    Dropout,
    Embedding,
    Linear,
    Sequential,
    Stream,
)
from fastrnn.losses import bce_with_logits, cross_entropy, mse
from fastrnn.module import Module

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "Batches",
    "CharLM",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "Linear",
    "Module",
    "Sequential",
    "Stream",
    "TrainStep",
    "Trainer",
    "__version__",
    "accuracy",
    "bce_with_logits",
    "callbacks",
    "clip_grad_norm_",
    "clip_grad_value_",
    "cross_entropy",
    "diagnostics",
    "get_num_threads",
    "gradcheck",
    "init",
    "load",
    "mse",
    "optim",
    "pad_sequences",
    "rescale_recurrent_",
    "save",
    "schedules",
    "set_num_threads",
    "show_config",
    "tbptt",
    "unpad_sequences",
]

# What `import fastrnn` need not read: imported when it is first asked for.
_LAZY = {
    "Batches": "data",
    "CharLM": "models",
    "EncoderDecoder": "models",
    "TrainStep": "train_step",
    "Trainer": "training",
    "accuracy": "metrics",
    "pad_sequences": "data",
    "rescale_recurrent_": "rescale",
    "tbptt": "truncated",
    "unpad_sequences": "data",
}
_LAZY_MODULES = (
    "callbacks",
    "cli",
    "data",
    "diagnostics",
    "init",
    "metrics",
    "models",
    "progress",
    "reference",
    "rescale",
    "resume",
    "sampling",
    "schedules",
    "tasks",
    "train_step",
    "training",
    "truncated",
)
_LAZY |= {name: name for name in _LAZY_MODULES}


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"fastrnn.{_LAZY[name]}")
    value = module if _LAZY[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_LAZY})
