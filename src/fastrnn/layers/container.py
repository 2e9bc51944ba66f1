"""Container: a module made of other modules, all parameters in one flat buffer.

What `Sequential` and the models have in common. Not here: how the parts are connected."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

from ..module import Module


class Container(Module):
    """Module that owns others. A subclass calls `_adopt` once and says how it computes.

    Parameters are named by part and name in the part: ``decoder.weight_ih_l0``.
    """

    def _adopt(self, parts: Mapping[str, Module], dtype) -> None:
        """Move the parameters of these modules into one buffer; they must not belong elsewhere."""
        self._parts = dict(parts)
        self._allocate(
            [
                (f"{name}.{key}", array.shape)
                for name, part in self._parts.items()
                for key, array in part._params.items()
            ],
            dtype,
        )
        self._bound()
        for part in self._parts.values():
            part._owner = weakref.ref(self)

    def _bound(self):
        start = 0
        for part in self._parts.values():
            stop = start + part._flat.size
            part._rebind(self._flat[start:stop], self._flat_grad[start:stop])
            start = stop

    def _touch(self):
        super()._touch()
        for part in self._parts.values():
            part._touch()

    def _expose(self):
        super()._expose()
        for part in self._parts.values():
            part._expose()

    def _copied(self, other, memo):
        super()._copied(other, memo)
        for name, part in self._parts.items():
            part._copied(other._parts[name], memo)

    def _random_layers(self):
        return [drawing for part in self._parts.values() for drawing in part._random_layers()]


def place_of(module: Module) -> tuple[Module, list[str]]:
    """Return the outermost container that a module is part of, and the way to it, part by part.

    A container that cannot be rebuilt cannot be copied, and is none here.
    """
    way = []
    while (owner := module._owner and module._owner()) is not None:
        if type(owner).config is Module.config:
            break
        way.append(next(name for name, part in owner._parts.items() if part is module))
        module = owner
    return module, way[::-1]


def part_at(module: Module, way: list[str]) -> Module:
    """Return what is at this place; the inverse of `place_of`."""
    for name in way:
        module = module._parts[name]
    return module


def check_backward(tapes, dstates, clip_step=None) -> None:
    """Let every tape say what is wrong before the first one adds to a gradient."""
    for tape, dstate in zip(tapes, dstates, strict=True):
        check = getattr(tape, "_check_backward", None)  # a user's tape need not have it
        if check is not None:
            check(dstate, clip_step)


def named_layers(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Yield the layers of a model with the prefix of their parameters in it, in its order.

    A module that is no container is its own only layer, without prefix.

    Examples
    --------
    >>> import fastrnn as fr
    >>> from fastrnn.layers.container import named_layers
    >>> model = fr.Sequential(fr.GRU(3, 4), fr.Linear(4, 2))
    >>> [(prefix, type(layer).__name__) for prefix, layer in named_layers(model)]
    [('0.', 'GRU'), ('1.', 'Linear')]
    """
    if not isinstance(module, Container):
        yield prefix, module
        return
    for name, part in module._parts.items():
        yield from named_layers(part, f"{prefix}{name}.")
