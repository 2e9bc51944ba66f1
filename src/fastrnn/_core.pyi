# Types of the extension module (_core.pyx and its .pxi files).

from typing import Any, Literal, final, overload

import numpy as np
from numpy.typing import NDArray

from fastrnn.inside import StepGradients, Trace

_Real = NDArray[np.float32] | NDArray[np.float64]
_Integers = NDArray[np.integer[Any]]
__test__: dict[str, str]

_ClipStep = tuple[Literal["value", "norm"], float] | None
_State = _Real | tuple[_Real | None, _Real | None] | None

@final
class Block:
    def __new__(cls, bytes: int) -> Block: ...

@final
class Packed: ...

@final
class Cell: ...

@final
class Engine:
    input_size: int
    hidden_size: int
    L: int
    D: int
    batch_first: bool
    has_c: bool
    dtype: np.dtype[Any]
    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        dtype: Any,
    ) -> None: ...
    def bind(
        self, index: int, params: tuple[_Real | None, ...], grads: tuple[_Real | None, ...]
    ) -> None: ...
    def run(
        self,
        module: Any,
        x: Any,
        state: _State,
        lengths: Any,
        reset: Any,
        keep: bool,
        trace: bool = False,
        mask: tuple[float, int, int] | None = None,
    ) -> tuple[Any, ...]: ...
    def plan(self, T: int, B: int, backward: bool = False) -> dict[str, int]: ...

@final
class Tape:
    @property
    def trace(self) -> Trace: ...
    @overload
    def backward(
        self,
        dy: _Real | None,
        dstate: _State = None,
        *,
        need_dx: bool = True,
        per_step: Literal[False] = False,
        clip_step: _ClipStep = None,
        accumulate: bool = True,
        need_dstate: bool = True,
    ) -> tuple[_Real | None, Any]: ...
    @overload
    def backward(
        self,
        dy: _Real | None,
        dstate: _State = None,
        *,
        need_dx: bool = True,
        per_step: Literal[True],
        clip_step: _ClipStep = None,
        accumulate: bool = True,
        need_dstate: bool = True,
    ) -> tuple[_Real | None, Any, StepGradients]: ...

@final
class Stepper:
    def __init__(self, engine: Engine, module: Any, batch: int) -> None: ...
    def reset(self) -> None: ...
    def step(self, x: Any, out: _Real | None) -> _Real: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: _State) -> None: ...

@final
class Affine:
    inputs: int
    outputs: int
    dtype: np.dtype[Any]
    def __init__(self, in_features: int, out_features: int, dtype: Any) -> None: ...
    def bind(self, params: dict[str, _Real], grads: dict[str, _Real]) -> None: ...
    def run(self, x: Any, keep: bool) -> tuple[Any, ...]: ...

@final
class AffineTape:
    def backward(
        self,
        dy: _Real | None,
        dstate: None = None,
        *,
        need_dx: bool = True,
        accumulate: bool = True,
    ) -> tuple[_Real | None, None]: ...

@final
class Step:
    headed: bool
    norm: float
    def __init__(
        self,
        engines: tuple[Engine | Affine, ...],
        modules: tuple[Any, ...],
        roots: tuple[Any, ...],
        loss: str,
        total: bool,
        last: bool,
        ignored: int,
        clip: str,
        limit: float,
    ) -> None: ...
    @property
    def output(self) -> _Real | None: ...
    def gradients(
        self, x: Any, targets: Any, states: tuple[_State, ...]
    ) -> tuple[float, tuple[_State, ...]]: ...

def matmul(
    a: _Real,
    b: _Real,
    out: _Real,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    bias: _Real | None = None,
) -> None: ...
def attention_scores(q: _Real, k: _Real, v: _Real, lengths: NDArray[np.int64]) -> _Real: ...
def attention_backward(
    q: _Real, k: _Real, v: _Real, lengths: NDArray[np.int64], de: _Real
) -> tuple[_Real, _Real, _Real]: ...
def activation(kind: Literal["exp", "sigmoid", "tanh"], x: _Real) -> _Real: ...
def isa() -> str: ...
def isas() -> dict[str, bool]: ...
def select_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def blas() -> str: ...
def fingerprint(array: NDArray[Any]) -> int: ...
def select_blas(
    name: str | None = None,
    sgemm: int = 0,
    dgemm: int = 0,
    ilp64: bool = False,
    set_threads: int = 0,
    get_threads: int = 0,
    put_threads: int = 0,
) -> None: ...
def softmax_cross_entropy(
    logits: _Real, targets: _Integers, ignore_index: int, dlogits: _Real
) -> tuple[float, int]: ...
def cross_entropy(logits: Any, targets: Any, ignored: int) -> tuple[float, _Real] | None: ...
def bce_with_logits(logits: _Real, targets: _Real, factor: float, dlogits: _Real) -> float: ...
def clear(flat: _Real) -> None: ...
def sum_of_squares(flat: _Real) -> float: ...
def scale(flat: _Real, factor: float) -> None: ...
def clip(flat: _Real, low: float, high: float) -> None: ...
def dropout(x: _Real, p: float, key: int, call: int, layer: int = 0) -> _Real: ...
def scatter_add(out: _Real, ids: _Integers, rows: _Real) -> None: ...
def sgd(
    params: _Real,
    grads: _Real,
    momentum_buffer: _Real | None,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def adagrad(
    params: _Real, grads: _Real, square_sum: _Real, lr: float, eps: float, weight_decay: float
) -> None: ...
def rmsprop(
    params: _Real,
    grads: _Real,
    square_mean: _Real,
    mean: _Real | None,
    momentum_buffer: _Real | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam(
    params: _Real,
    grads: _Real,
    mean: _Real,
    square_mean: _Real,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None: ...
