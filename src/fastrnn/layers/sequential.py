"""Sequential: layers one after another, as one model with one buffer of parameters.

Not a graph: each layer gets what the previous one returned. For anything else, write a Module."""

from __future__ import annotations

import inspect
import weakref

from ..module import Module, build, describe
from .container import Container, check_backward, named_layers


class Sequential(Container):
    """Chain of layers.

    Parameters
    ----------
    *layers : Module
        At least one, all of one dtype, each of them in no other container. They become part of the
        model: their parameters move into its flat buffer, so read ``layer.params`` again
        afterwards.

    Attributes
    ----------
    layers : tuple of Module
    params, grads : dict
        Named by position and name in the layer, as in ``torch.nn.Sequential``:
        ``0.weight_ih_l0``, ``1.weight``.

    Raises
    ------
    TypeError
        ``layer 1: expected a Module, got str``.
    ValueError
        ``layers: expected one dtype, got float32 (layer 0) and float64 (layer 1)``, ``layer 1: it
        already belongs to another container``, or no layer at all.

    Notes
    -----
    The state is a tuple with one entry for each layer, None for those that keep none. `lengths` and
    `reset` go to every layer whose ``forward`` has such an argument.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> model = fr.Sequential(fr.Embedding(5, 4, seed=0), fr.Linear(4, 3, seed=1))
    >>> list(model.params)
    ['0.weight', '1.weight', '1.bias']
    >>> y, state, tape = model.forward(np.array([[0, 1], [2, 3]]))
    >>> y.shape, state
    ((2, 2, 3), (None, None))
    >>> tape.backward(np.ones_like(y))
    (None, (None, None))
    """

    def __init__(self, *layers):
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for i, layer in enumerate(layers):
            self._check_layer(i, layer, layers)
        dtypes = {layer.dtype.name: i for i, layer in enumerate(layers) if layer.dtype is not None}
        if len(dtypes) > 1:
            raise ValueError(
                "layers: expected one dtype, got "
                + " and ".join(f"{name} (layer {i})" for name, i in sorted(dtypes.items()))
            )
        self.layers = tuple(layers)
        self._takes = tuple(
            {"lengths", "reset"} & inspect.signature(layer.forward).parameters.keys()
            for layer in layers
        )
        self._nothing = ({},) * len(layers)
        self._drawing = [
            part
            for layer in layers
            for _, part in named_layers(layer)
            if hasattr(part, "_calls")  # it may draw masks of dropout
        ]
        parts = {str(i): layer for i, layer in enumerate(layers)}
        self._adopt(parts, next(iter(dtypes), "float32"))

    @staticmethod
    def _check_layer(i, layer, layers):
        if not isinstance(layer, Module):
            raise TypeError(f"layer {i}: expected a Module, got {type(layer).__name__}")
        if any(layer is other for other in layers[:i]):
            raise ValueError(
                f"layer {i}: the same object is already in place; build a second layer"
            )
        if layer._owner is not None and layer._owner() is not None:
            raise ValueError(f"layer {i}: it already belongs to another container")

    def config(self) -> dict:
        """Return class and arguments of each layer, as JSON can hold them."""
        return {"layers": [describe(layer) for layer in self.layers]}

    @classmethod
    def from_config(cls, config: dict) -> Sequential:
        """Build a model from what `config` returned; its parameters are fresh."""
        return cls(*(build(description) for description in config["layers"]))

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"

    def __call__(self, x, state=None, lengths=None, reset=None):
        """Run all layers without keeping anything.

        Parameters
        ----------
        x : ndarray
            As the first layer wants it.
        state : tuple, one entry for each layer, or None
        lengths : (B,) integers, optional
            Length of each sequence, for the recurrent layers.
        reset : (T, B) booleans, optional
            Where a row starts afresh, for the recurrent layers; (B, T) if they are batch first.

        Returns
        -------
        y : ndarray
            What the last layer returned.
        state : tuple
            The final state of each layer.

        Raises
        ------
        TypeError, ValueError
            ``state: expected a tuple of 2 entries, one for each layer, got ...``, and whatever a
            layer raises.
        """
        final = []
        for layer, initial, keywords in self._steps(state, lengths, reset):
            x, last = layer(x, initial, **keywords)
            final.append(last)
        return x, tuple(final)

    def forward(self, x, state=None, lengths=None, reset=None):
        """Run all layers and also return a tape.

        Parameters
        ----------
        x, state, lengths, reset
            As in a call.

        Returns
        -------
        y, state
            As from a call.
        tape : SequentialTape
            ``dx, dstate = tape.backward(dy, dstate=None)`` adds into `grads`.

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        final, tapes = [], []
        calls = [part._calls for part in self._drawing]
        try:
            for layer, initial, keywords in self._steps(state, lengths, reset):
                # The step of a small model is made of calls like this one: no empty keywords.
                if keywords:
                    x, last, tape = layer.forward(x, initial, **keywords)
                else:
                    x, last, tape = layer.forward(x, initial)
                final.append(last)
                tapes.append(tape)
        except BaseException:  # of a later layer: no mask was used up
            for part, count in zip(self._drawing, calls, strict=True):
                part._calls = count
            raise
        return x, tuple(final), SequentialTape(self.layers, tapes)

    def _steps(self, state, lengths, reset):
        states = per_layer(state, len(self.layers), "state")
        if lengths is None and reset is None:
            return zip(self.layers, states, self._nothing, strict=True)
        given = {"lengths": lengths, "reset": reset}
        given = {name: value for name, value in given.items() if value is not None}
        keywords = [{name: given[name] for name in takes & given.keys()} for takes in self._takes]
        return zip(self.layers, states, keywords, strict=True)


class SequentialTape:
    """The tapes of all layers."""

    def __init__(self, layers, tapes):
        self._layers, self._tapes = layers, tapes

    def backward(self, dy, dstate=None, *, clip_step=None, accumulate=True):
        """Add the gradients of all layers into ``model.grads`` and return those of the inputs.

        Parameters
        ----------
        dy : ndarray like y, or None for zeros
        dstate : tuple, one entry for each layer, or None
            Gradient of the final states; an entry may be None for zeros.
        clip_step : (str, float), optional
            For the recurrent layers: ``("value", limit)`` or ``("norm", limit)`` clips the gradient
            that reaches the state of each step.
        accumulate : bool, default True
            False: ``model.grads`` are set, not added to, as after ``model.zero_grad()``.

        Returns
        -------
        dx : ndarray, or None where the first layer takes ids
        dstate : tuple
            Gradient of the initial states; None for layers without one.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            What a layer says about `dy`, `dstate`, `clip_step` or parameters that have changed; no
            gradient has.
        """
        dstates = per_layer(dstate, len(self._tapes), "dstate")
        check_backward(self._tapes, dstates, clip_step)
        initial = []
        asked = {} if clip_step is None else {"clip_step": clip_step}
        if not accumulate:
            asked["accumulate"] = False
        for layer, tape, dlast in zip(
            reversed(self._layers), reversed(self._tapes), reversed(dstates), strict=True
        ):
            taken = _taken(tape, asked) if asked else {}
            if not accumulate and "accumulate" not in taken:
                layer.zero_grad()
            dy, dfirst = tape.backward(dy, dlast, **taken)
            initial.append(dfirst)
        return dy, tuple(reversed(initial))

    def _check_backward(self, dstate, clip_step):
        check_backward(self._tapes, per_layer(dstate, len(self._tapes), "dstate"), clip_step)


# What the `backward` of a kind of tape takes: to look takes as long as a small layer.
_KEYWORDS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _taken(tape, asked: dict) -> dict:
    """Return what this tape takes of the keywords that all were asked for."""
    known = _KEYWORDS.get(type(tape))
    if known is None:
        known = _KEYWORDS[type(tape)] = frozenset(inspect.signature(tape.backward).parameters)
    return {name: value for name, value in asked.items() if name in known}


def per_layer(state, count: int, name: str) -> tuple:
    """Return `state` as a tuple of `count` entries; None stands for that many None."""
    if state is None:
        return (None,) * count
    if not isinstance(state, (tuple, list)):
        raise TypeError(
            f"{name}: expected a tuple of {count} entries, one for each layer, "
            f"got {type(state).__name__}"
        )
    if len(state) != count:
        raise ValueError(
            f"{name}: expected a tuple of {count} entries, one for each layer, got {len(state)}"
        )
    return tuple(state)
