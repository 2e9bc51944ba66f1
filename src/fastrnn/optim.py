"""Optimizers with PyTorch's formulas and defaults, one pass in C over a model's flat buffers.

Each is made over a Module or a sequence of Modules and changes their parameters in `step`, from the
gradients that ``tape.backward`` has summed. A parameter that belongs to several modules is updated
once. Gradients are not set to zero here (``model.zero_grad()``), and not examined: NaN in a
gradient makes the parameter NaN, as in PyTorch; `fastrnn.clip_grad_norm_` can raise instead.

Hyperparameters are plain attributes and may be changed between steps. The formulas are written for
one element; g is its gradient, already with ``g + weight_decay * p`` where that is used.
Numbers as in docs/math.md, where p is θ; the decay of g is (O1).
"""

from __future__ import annotations

import copy
import math

import numpy as np

from . import _core
from .layers._checks import check_index, check_saved
from .layers.container import part_at, place_of
from .module import Module, aligned_zeros, roots


class Optimizer:
    """Base class: which buffers, which options, which memory; a subclass says how to step.

    `_options` names the attributes that are saved, `_memory` the arrays kept for each parameter,
    `_optional` those that only some options call for.

    Parameters
    ----------
    model : Module or sequence of Modules
    **options : float, bool or pair of floats
        All of `_options`.

    Raises
    ------
    TypeError
        ``model: expected a Module or a sequence of Modules, got ndarray``.
    ValueError
        ``lr: expected a finite number of 0 or more, got -1``, ``model: expected at least one
        parameter, got none``.
    """

    _options: tuple[str, ...] = ()
    _memory: tuple[str, ...] = ()
    _optional: tuple[str, ...] = ()

    def __init__(self, model, **options):
        self._modules = roots(model)
        if not self._modules:
            raise ValueError("model: expected at least one parameter, got none")
        self._arrays = [{} for _ in self._modules]
        self.steps = 0
        for name in self._options:
            setattr(self, name, options[name])

    def __setattr__(self, name, value):
        if name in self._options:
            value = _checked(name, value)
        super().__setattr__(name, value)
        if name != "lr":  # which may change at every step, and calls for no array
            self.__dict__["_ready"] = None

    def step(self) -> None:
        """Update all parameters from their gradients."""
        self.__dict__["steps"] += 1  # past the check that every option goes through
        for module, memory in self._ready or self._make_ready():
            self._step(module._flat, module._flat_grad, *memory)
            module._touch()

    def _make_ready(self) -> list[tuple[Module, list[np.ndarray | None]]]:
        """Each module with its arrays in the order of `_memory`; None where none is needed."""
        for module, arrays in zip(self._modules, self._arrays, strict=True):
            for name in self._memory:
                if name not in arrays and self._needs(name):
                    arrays[name] = self._fresh(name, module)
        ready = [
            (module, [arrays.get(name) for name in self._memory])
            for module, arrays in zip(self._modules, self._arrays, strict=True)
        ]
        self.__dict__["_ready"] = ready
        return ready

    def _needs(self, name) -> bool:
        """Whether the options of now, but lr, call for this array; asked when one has changed."""
        return True

    def _fresh(self, name, module) -> np.ndarray:
        return aligned_zeros(module._flat.size, module.dtype)

    def state_dict(self) -> dict:
        """Return what a later `load_state_dict` needs to go on bit for bit.

        Returns
        -------
        dict
            ``class``, ``steps`` and ``options`` (name to number) can go into JSON. ``arrays`` maps
            names such as ``0.mean`` (of the first module) to copies of 1-D arrays, in the order of
            the module's flat buffer.
        """
        return {
            "class": type(self).__name__,
            "steps": self.steps,
            "options": {name: getattr(self, name) for name in self._options},
            "arrays": {
                f"{i}.{name}": array.copy()
                for i, arrays in enumerate(self._arrays)
                for name, array in arrays.items()
            },
        }

    def load_state_dict(self, saved: dict) -> None:
        """Take over what `state_dict` returned, options included; nothing on error.

        Parameters
        ----------
        saved : dict
            Of an optimizer of the same class over as many parameters.

        Raises
        ------
        ValueError
            ``optimizer: expected the state of Adam, got that of SGD``,
            ``0.mean: expected 35 numbers of float32, got 12 of float32``,
            ``optimizer: missing array 0.mean``, ``optimizer: unexpected array(s) 1.mean``,
            ``optimizer: missing key(s): options``.
        TypeError
            ``optimizer: expected what state_dict() returned, got NoneType``.
        """
        check_saved("optimizer", saved, ["class"])
        if saved["class"] != type(self).__name__:
            raise ValueError(
                f"optimizer: expected the state of {type(self).__name__}, got that of "
                f"{saved['class']}"
            )
        check_saved("optimizer", saved, ["steps", "options", "arrays"])
        check_saved("optimizer: options", saved["options"], self._options)
        check_saved("optimizer: arrays", saved["arrays"])
        steps = check_index("optimizer: steps", saved["steps"])
        options = {name: _checked(name, saved["options"][name]) for name in self._options}
        given = dict(saved["arrays"])
        loaded = [{} for _ in self._modules]
        for i, (module, arrays) in enumerate(zip(self._modules, loaded, strict=True)):
            for name in self._memory:
                key = f"{i}.{name}"
                if key in given:
                    arrays[name] = _copy_of(key, given.pop(key), module)
                elif steps and name not in self._optional:
                    raise ValueError(f"optimizer: missing array {key}")
        if given:
            raise ValueError(f"optimizer: unexpected array(s) {', '.join(sorted(map(str, given)))}")
        self._arrays = loaded
        self.steps = steps
        for name, value in options.items():
            setattr(self, name, value)

    # copy.deepcopy and pickle: a layer is copied as a part of its model, or the copy of an
    # optimizer over a model's layers would move layers that the copy of the model knows nothing of.

    def __deepcopy__(self, memo):
        for module in self._modules:
            if id(module) not in memo:  # as a part, or by itself if that has been done
                copy.deepcopy(place_of(module)[0], memo)
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        state = {k: v for k, v in self.__dict__.items() if k not in ("_modules", "_ready")}
        other.__dict__.update(copy.deepcopy(state, memo))
        other._modules = [memo[id(module)] for module in self._modules]
        return other

    def __getstate__(self):
        places = [place_of(module) for module in self._modules]
        return self.__dict__ | {"_modules": places, "_ready": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._modules = [part_at(*place) for place in state["_modules"]]

    def __repr__(self):
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._options)
        return f"{type(self).__name__}({options})"


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    Parameters
    ----------
    model : Module or sequence of Modules
    lr : float, default 1e-3
    momentum : float, default 0
    nesterov : bool, default False
        Needs momentum.
    weight_decay : float, default 0

    Raises
    ------
    ValueError
        ``lr: expected a finite number of 0 or more, got -1``, and so for each option.

    Notes
    -----
    (O2), (O3)  ``b = momentum * b + g;  p -= lr * b``, with Nesterov's form
    ``p -= lr * (g + momentum * b)`` (Sutskever et al. 2013). PyTorch's ``dampening`` is 0.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 1, bias=False)
    >>> layer.params["weight"], layer.grads["weight"] = 1, 2
    >>> fr.optim.SGD(layer, lr=0.25).step()
    >>> layer.params["weight"].item()
    0.5
    """

    _options = ("lr", "momentum", "nesterov", "weight_decay")
    _memory = _optional = ("momentum_buffer",)

    def __init__(self, model, lr=1e-3, momentum=0.0, nesterov=False, *, weight_decay=0.0):
        super().__init__(
            model, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        if self.nesterov and not self.momentum > 0:
            raise ValueError(f"nesterov: expected momentum above 0 with it, got {momentum}")

    def _needs(self, name):
        return self.momentum != 0

    def _step(self, p, g, momentum_buffer):
        buffer = momentum_buffer if self.momentum else None
        _core.sgd(p, g, buffer, self.lr, self.momentum, self.nesterov, self.weight_decay)


class Adagrad(Optimizer):
    """Steps shrink with the sum of squared gradients.

    Parameters
    ----------
    model : Module or sequence of Modules
    lr : float, default 1e-2
    lr_decay : float, default 0
    weight_decay : float, default 0
    initial_accumulator_value : float, default 0
    eps : float, default 1e-10

    Raises
    ------
    ValueError
        As `SGD`.

    Notes
    -----
    (O4)  ``s += g^2;  p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps)``
    (Duchi et al. 2011).

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 1, bias=False)
    >>> layer.params["weight"], layer.grads["weight"] = 1, 2
    >>> fr.optim.Adagrad(layer, lr=0.25).step()
    >>> layer.params["weight"].item()
    0.75
    """

    _options = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
    _memory = ("square_sum",)

    def __init__(
        self,
        model,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
    ):
        super().__init__(
            model,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )

    def _fresh(self, name, module):
        array = super()._fresh(name, module)
        array.fill(self.initial_accumulator_value)
        return array

    def _step(self, p, g, square_sum):
        lr = self.lr / (1 + (self.steps - 1) * self.lr_decay)
        _core.adagrad(p, g, square_sum, lr, self.eps, self.weight_decay)


class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient.

    Parameters
    ----------
    model : Module or sequence of Modules
    lr : float, default 1e-2
    alpha : float, default 0.99
        How much of the running means stays in a step.
    eps : float, default 1e-8
    weight_decay : float, default 0
    momentum : float, default 0
    centered : bool, default False
        Divide by the standard deviation instead.

    Raises
    ------
    ValueError
        As `SGD`.

    Notes
    -----
    (O5), (O6)  ``v = alpha v + (1 - alpha) g^2;  d = g / (sqrt(v) + eps);  p -= lr * d``; with
    momentum ``b = momentum b + d;  p -= lr * b``; centered (Graves 2013):
    ``m = alpha m + (1 - alpha) g`` and ``v - m^2`` in place of v under the root. That difference is
    taken as 0 where rounding makes it negative; PyTorch gets NaN there.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 1, bias=False)
    >>> layer.params["weight"], layer.grads["weight"] = 1, 2
    >>> fr.optim.RMSprop(layer, lr=0.01).step()
    >>> round(layer.params["weight"].item(), 6)
    0.9
    """

    _options = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
    _memory = ("square_mean", "mean", "momentum_buffer")
    _optional = ("mean", "momentum_buffer")

    def __init__(
        self,
        model,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
    ):
        super().__init__(
            model,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    def _needs(self, name):
        return {"mean": self.centered, "momentum_buffer": self.momentum != 0}.get(name, True)

    def _step(self, p, g, square_mean, mean, momentum_buffer):
        mean = mean if self.centered else None
        buffer = momentum_buffer if self.momentum else None
        _core.rmsprop(
            p, g, square_mean, mean, buffer,
            self.lr, self.alpha, self.eps, self.momentum, self.weight_decay,
        )  # fmt: skip


class Adam(Optimizer):
    """Running means of gradient and squared gradient, both corrected for their start at zero.

    Parameters
    ----------
    model : Module or sequence of Modules
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
        How much of the running means stays in a step, in [0, 1).
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient; see `AdamW` for the other way.

    Raises
    ------
    ValueError
        As `SGD`; ``betas: expected two numbers in [0, 1), got (1.0, 0.9)``.

    Notes
    -----
    (O7), (O8)  ``m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2``,
    ``p -= lr * m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)`` (Kingma & Ba 2015).

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 1, bias=False)
    >>> layer.params["weight"], layer.grads["weight"] = 1, 2
    >>> optimizer = fr.optim.Adam(layer, lr=0.1)
    >>> optimizer.step()
    >>> round(layer.params["weight"].item(), 6)
    0.9
    >>> optimizer.lr = 0.01  # from the next step on
    """

    _options = ("lr", "betas", "eps", "weight_decay")
    _memory = ("mean", "square_mean")
    _decoupled = False

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(model, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _step(self, p, g, mean, square_mean):
        _core.adam(
            p, g, mean, square_mean,
            self.steps, self.lr, *self.betas, self.eps, self.weight_decay, self._decoupled,
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters themselves, outside the running means.

    Parameters
    ----------
    model : Module or sequence of Modules
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 1e-2

    Raises
    ------
    ValueError
        As `Adam`.

    Notes
    -----
    (O9)  ``p *= 1 - lr * weight_decay`` before the step of (O7), (O8) without decay (Loshchilov &
    Hutter 2019).

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 1, bias=False)
    >>> layer.params["weight"], layer.grads["weight"] = 1, 0
    >>> fr.optim.AdamW(layer, lr=0.5, weight_decay=0.5).step()
    >>> layer.params["weight"].item()
    0.75
    """

    _decoupled = True

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(model, lr, betas, eps, weight_decay)


def _checked(name, value):
    """Return the value of an option, in the type that JSON gives back, or explain what is wrong."""
    if name in ("nesterov", "centered"):
        return bool(value)
    if name == "betas":
        try:
            betas = tuple(float(beta) for beta in value)
        except (TypeError, ValueError):
            betas = ()
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {value!r}")
        return betas
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number of 0 or more, got {value!r}")
    return number


def _copy_of(name, array, module) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != module._flat.shape or array.dtype != module.dtype:
        raise ValueError(
            f"{name}: expected {module._flat.size} numbers of {module.dtype}, "
            f"got {array.size} of {array.dtype}"
        )
    copy = aligned_zeros(array.size, array.dtype)
    copy[...] = array
    return copy
