"""TrainStep: one update of a model as one call, for models so small that calls are what they cost.

The numbers are those of the calls one by one, bit for bit. What it is not: a loop over data, with
validation, logs and checkpoints; that is `fastrnn.Trainer`. The work is done in ``_step.pxi``.
"""

from __future__ import annotations

import math

import numpy as np

from . import _core, losses
from .layers import Linear, Sequential
from .layers._checks import check_ignore_index, check_method, check_real
from .layers.recurrent import Recurrent
from .layers.sequential import per_layer
from .module import Module, roots

_LOSSES = {getattr(losses, name): name for name in ("cross_entropy", "mse", "bce_with_logits")}


class TrainStep:
    """Forward, loss, backward, clipping and update of a model in one call.

    All memory but the small arrays of the final state is made once for each shape of input, and
    Python is entered twice a step instead of a few dozen times: a step of a model of 25 units takes
    a third of the time. With large layers there is little to gain. With two threads, a small layer
    and the `Linear` behind it, under `fastrnn.cross_entropy`, are trained at the same time.

    Parameters
    ----------
    model : Sequential, RNN, LSTM, GRU, Linear or sequence of these layers
        Layers one after another: recurrent ones and `Linear`, of one dtype.
    optimizer : Optimizer
        Over the parameters of the model, or of some of its layers; the others stay as they are.
    loss : callable, default `fastrnn.cross_entropy`
        That one, `fastrnn.mse` or `fastrnn.bce_with_logits`.
    reduction : {"mean", "sum"}
        Over the targets that count.
    last_only : bool, default False
        Of the last recurrent layer only each row's final h is read, by the `Linear` after it or by
        the loss: many steps in, one answer out. That layer must go one way.
    clip_norm : float, optional
        `fastrnn.clip_grad_norm_` before the update (C1); infinity only measures and checks.
    clip_value : float, optional
        `fastrnn.clip_grad_value_` before the update (C2).
    ignore_index : int, default -100
        Of `fastrnn.cross_entropy`.

    Attributes
    ----------
    output : ndarray or None
        What the last layer returned in the last call, read-only: (T, B, O), with batch_first
        (B, T, O), with `last_only` (B, O). The next call writes over it.
    norm : float
        Norm of the last call's gradients before `clip_norm`; NaN without it.

    Raises
    ------
    TypeError, ValueError
        ``model: layer 0: expected RNN, LSTM, GRU or Linear, got Embedding``, ``model: layer 1:
        expected 8 inputs to follow layer 0, got 9``, ``clip_norm: expected none beside
        clip_value``, and so for each argument.

    Notes
    -----
    Gradients are set, not added to: ``zero_grad`` is part of a step. They stay in ``model.grads``
    until the next one. A call while another thread is inside is a RuntimeError: use an object for
    each thread, over models of their own.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> model = fr.Sequential(fr.GRU(5, 16, seed=0), fr.Linear(16, 5, seed=1))
    >>> step = fr.TrainStep(model, fr.optim.Adam(model, 0.02), clip_norm=5.0)
    >>> ids = np.tile(np.arange(5), 5)[:, None]  # T + 1, B
    >>> state = None
    >>> for _ in range(100):
    ...     loss, state = step(ids[:-1], ids[1:], state)
    >>> loss < 0.1
    True
    """

    def __init__(
        self,
        model,
        optimizer,
        loss=losses.cross_entropy,
        *,
        reduction="mean",
        last_only=False,
        clip_norm=None,
        clip_value=None,
        ignore_index=-100,
    ):
        layers = _layers(model)
        parts = roots(model)
        check_method("optimizer", optimizer, "step")
        moved = [module._flat for module in getattr(optimizer, "_modules", parts)]
        if not all(any(np.may_share_memory(a._flat, b) for b in moved) for a in parts):
            kind = type(optimizer).__name__
            raise ValueError(f"optimizer: expected one over the model's parameters, got {kind}")
        if not callable(loss) or loss not in _LOSSES:
            name = getattr(loss, "__name__", type(loss).__name__)
            raise ValueError(f"loss: expected one of {', '.join(_LOSSES.values())}, got {name}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
        recurrent = [layer for layer in layers if isinstance(layer, Recurrent)]
        if last_only and (not recurrent or recurrent[-1].bidirectional):
            raise ValueError("last_only: expected a last recurrent layer that goes one way")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self._single, self._count = isinstance(model, (Recurrent, Linear)), len(layers)
        self._step = _core.Step(
            tuple(layer._engine for layer in layers),
            tuple(layers),
            tuple(parts),
            _LOSSES[loss],
            reduction == "sum",
            bool(last_only),
            check_ignore_index(ignore_index),
            *_clip(clip_norm, clip_value),
        )

    def __call__(self, x, targets, state=None):
        """Train on one batch.

        Parameters
        ----------
        x : ndarray
            As the first layer wants it, of three axes, or token ids of two.
        targets : ndarray
            As the loss wants them for the output: class ids (T, B), or real numbers (T, B, O); with
            batch_first (B, T, ...), with `last_only` (B, ...).
        state : as the model's, optional
            Initial state, zeros by default.

        Returns
        -------
        loss : float
        state : as the model's
            The final state; no gradient crosses it.

        Raises
        ------
        TypeError, ValueError
            Naming the argument, what was expected and what came; nothing has changed.
        FloatingPointError
            ``the loss is nan``, or with `clip_norm` ``the norm of the gradients is inf``. The
            parameters have not changed.
        """
        result = self.gradients(x, targets, state)
        self.optimizer.step()
        return result

    def gradients(self, x, targets, state=None):
        """Do all of a step but the update: set ``model.grads``, clipped.

        Parameters, Returns and Raises as of a call.
        """
        if self._single:
            loss, final = self._step.gradients(x, targets, (state,))
            return loss, final[0]
        return self._step.gradients(x, targets, per_layer(state, self._count, "state"))

    @property
    def output(self) -> np.ndarray | None:
        """What the last layer returned in the last call."""
        return self._step.output

    @property
    def norm(self) -> float:
        """Norm of the last call's gradients, before they were clipped."""
        return self._step.norm


def _layers(model) -> list[Module]:
    """The layers of a model, which must be a chain of those that a step knows."""
    plain = isinstance(model, Sequential) and type(model).forward is Sequential.forward
    if plain:
        layers = list(model.layers)
    elif isinstance(model, Module):
        layers = [model]
    else:
        roots(model)  # for its message
        layers = list(model)
    if not layers:
        raise ValueError("model: expected at least one layer, got none")
    before = None
    for i, layer in enumerate(layers):
        if not isinstance(layer, (Recurrent, Linear)):
            raise TypeError(
                f"model: layer {i}: expected RNN, LSTM, GRU or Linear, got {type(layer).__name__}"
            )
        if layer.dtype != layers[0].dtype:
            raise ValueError(f"model: layer {i}: expected {layers[0].dtype}, got {layer.dtype}")
        inputs = layer.in_features if isinstance(layer, Linear) else layer.input_size
        if i and inputs != before:
            raise ValueError(
                f"model: layer {i}: expected {before} inputs to follow layer {i - 1}, got {inputs}"
            )
        before = (
            layer.out_features
            if isinstance(layer, Linear)
            else layer.hidden_size * (2 if layer.bidirectional else 1)
        )
    firsts = {layer.batch_first for layer in layers if isinstance(layer, Recurrent)}
    if len(firsts) > 1:
        raise ValueError("model: expected batch_first of all recurrent layers or of none, got both")
    return layers


def _clip(norm, value) -> tuple[str, float]:
    if norm is not None and value is not None:
        raise ValueError("clip_norm: expected none beside clip_value, got both")
    for name, limit in (("norm", norm), ("value", value)):
        if limit is not None:
            if not check_real(f"clip_{name}", limit, "0 or more") >= 0:
                raise ValueError(f"clip_{name}: expected 0 or more, got {limit}")
            return name, float(limit)
    return "", math.inf
