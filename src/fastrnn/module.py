"""Module: what layers and models have in common: parameters, gradients, saving, rebuilding.

The parameters of a module lie one behind another in one flat buffer, their gradients in a second
one of the same layout, and the named arrays are views into them:

    _flat       | weight_ih_l0 ......... | weight_hh_l0 ... | bias_ih_l0 | bias_hh_l0 |
    _flat_grad  | weight_ih_l0 ......... | weight_hh_l0 ... | bias_ih_l0 | bias_hh_l0 |

So clipping, an optimizer step or an all-reduce is one call over one array, whatever the model. A
container (`Sequential`) makes one such pair for the whole model and moves its layers into it.

Not here: computing anything. Layers do that; how one is called is told in `Module`.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np

from fastrnn import _core
from fastrnn._core import _as_array

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_MEMORY = ("_flat", "_flat_grad", "_params", "_grads", "_version")  # what `_allocate` makes


class Module:
    """Base class of layers and models.

    A subclass calls `_allocate` in its ``__init__``, writes initial values into ``self._params``,
    and defines ``config`` and how it computes, with the same three calls for every layer::

        y, state       = layer(x, state=None, lengths=None)           # inference
        y, state, tape = layer.forward(x, state=None, lengths=None)   # training
        dx, dstate     = tape.backward(dy, dstate=None)               # adds into layer.grads

    A layer without recurrent state returns None for it. A tape is not changed by ``backward``,
    which may be called again. A gradient of None stands for zeros in every tape, as it does in an
    ``autograd.Function`` of PyTorch: ``backward(None)`` is ``backward(np.zeros_like(y))``.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        Views into the flat buffers. Assigning to a name writes into the view.
    dtype : dtype
        float32 or float64; None in a module without parameters.
    exposed : bool
        Whether `params` has been read, so that somebody may hold views and edit them at any time.
        An engine that caches anything made from parameters must then look at the values again;
        before that, `_version` says whether they changed.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(3, 2, seed=0)
    >>> {name: array.shape for name, array in layer.params.items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> layer.params["bias"] = 0
    >>> layer.state_dict()["bias"]
    array([0., 0.], dtype=float32)
    """

    dtype = None
    _owner = None  # weak reference to the container that holds our parameters

    # All subclasses by name, and those of one name by where they are defined: for `build`.
    _classes: ClassVar[dict[str, dict[tuple[str, str], type[Module]]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not _is_ours(cls) and any(map(_is_ours, _known(cls.__name__).values())):
            raise TypeError(f"{cls.__name__}: fastrnn has a class of this name, choose another")
        places = Module._classes.setdefault(cls.__name__, {})
        places[cls.__module__, cls.__qualname__] = cls  # a definition run again counts anew

    def __getattr__(self, name):
        if name in _MEMORY:
            kind = type(self).__name__
            raise TypeError(
                f"{kind}: expected _allocate to be called in __init__; "
                f"of layers together fr.Sequential makes a model"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- memory

    def _allocate(self, shapes, dtype) -> None:
        """Make the buffers for parameters of these ``(name, shape)`` pairs; all zeros."""
        self.dtype = _float_dtype(dtype)
        size = 0
        for name, shape in shapes:
            size += math.prod(shape)
            if size * self.dtype.itemsize > sys.maxsize - _ALIGNMENT:
                raise ValueError(f"{name}: shape {shape} is larger than any memory")
        try:
            flat, flat_grad = aligned_zeros(size, self.dtype), aligned_zeros(size, self.dtype)
        except MemoryError:
            name, shape = max(shapes, key=lambda pair: math.prod(pair[1]))
            raise MemoryError(
                f"{name}: no memory for shape {shape}; parameters and gradients take "
                f"{2 * size * self.dtype.itemsize} bytes"
            ) from None
        self._params, self._grads = Views(), Views()
        self._version, self.exposed = 0, False
        self._point(flat, flat_grad, shapes)

    def _point(self, flat, flat_grad, shapes) -> None:
        """Make these buffers the module's own, and the named arrays views into them."""
        self._flat, self._flat_grad = flat, flat_grad
        start = 0
        for name, shape in shapes:
            stop = start + math.prod(shape)
            self._params.bind(name, flat[start:stop].reshape(shape))
            self._grads.bind(name, flat_grad[start:stop].reshape(shape))
            start = stop

    def _rebind(self, flat, flat_grad) -> None:
        """Move parameters and gradients into these 1-D slices, of the module's size and dtype."""
        flat[...], flat_grad[...] = self._flat, self._flat_grad
        self._point(flat, flat_grad, [(name, a.shape) for name, a in self._params.items()])
        self._bound()

    def _bound(self) -> None:
        """Called after `_rebind`: drop every pointer into the old buffers."""

    def _touch(self) -> None:
        """Called after parameters were written by anything but a user's hand."""
        self._version += 1

    def _expose(self) -> None:
        """Called when views of the parameters are given away."""
        self.exposed = True

    # ---- masks of dropout

    def _start_masks(self, rng) -> None:
        """Draw the key of this layer's masks, which depend on it and on how many came before."""
        self._key, self._calls = int(rng.integers(2**64, dtype=np.uint64)), 0

    def _random_layers(self) -> list[Module]:
        """Layers of this module that draw masks, itself included; containers ask their parts."""
        return []

    @property
    def random_state(self) -> list[int]:
        """What the next dropout masks depend on: two integers for each layer that draws some."""
        return [number for layer in self._random_layers() for number in (layer._key, layer._calls)]

    def load_random_state(self, state) -> None:
        """Go on from a `random_state`: the masks after it are the same again.

        Parameters
        ----------
        state : list of int
            Of a module with the same layers.

        Raises
        ------
        ValueError
            ``random_state: expected 4 integers from 0 to 2**64 - 1, got ...``; nothing has changed.
        TypeError
            The same of what is no sequence: ``..., got None``.
        """
        layers, given = self._random_layers(), state
        expected = f"random_state: expected {2 * len(layers)} integers from 0 to 2**64 - 1"
        try:
            state = list(given)
        except TypeError:
            raise TypeError(f"{expected}, got {given!r}") from None
        integers = all(isinstance(number, (int, np.integer)) for number in state)
        if len(state) != 2 * len(layers) or not integers or not all(0 <= n < 2**64 for n in state):
            raise ValueError(f"{expected}, got {given!r}")
        for i, layer in enumerate(layers):
            layer._key, layer._calls = int(state[2 * i]), int(state[2 * i + 1])

    # ---- what users see

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Parameters by name, views of shape and order as documented by the layer."""
        self._expose()
        return self._params

    @property
    def grads(self) -> dict[str, np.ndarray]:
        """Gradients by name; ``tape.backward`` adds into them."""
        return self._grads

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        _core.clear(self._flat_grad)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters by name."""
        return {name: array.copy() for name, array in self._params.items()}

    def load_state_dict(self, mapping: Mapping) -> None:
        """Set all parameters.

        Parameters
        ----------
        mapping : mapping of str to array-like
            One value per parameter name, of the parameter's shape and any real dtype: a
            `state_dict` of this library, or one of PyTorch as it is.

        Raises
        ------
        ValueError
            ``missing key(s): bias``, ``unexpected key(s): b``, ``weight: expected shape (2, 3), got
            (3, 2)``, or a finite value that overflows the module's dtype. Nothing has been written.
        TypeError
            ``weight: expected real numbers, got complex128``, ``mapping: expected parameters by
            name, got NoneType``.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping: expected parameters by name, got {_kind(mapping)}")
        for what, names in (
            ("missing", self._params.keys() - mapping.keys()),
            ("unexpected", mapping.keys() - self._params.keys()),
        ):
            if names:
                raise ValueError(f"{what} key(s): {', '.join(sorted(map(str, names)))}")
        arrays = {name: _cast(name, mapping[name], p) for name, p in self._params.items()}
        for name, array in arrays.items():
            self._params[name] = array
        self._touch()

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``, as JSON can hold them."""
        raise TypeError(f"{type(self).__name__}: no config() is defined, so it cannot be rebuilt")

    @classmethod
    def from_config(cls, config: dict) -> Module:
        """Build a module from what `config` returned; its parameters are fresh."""
        return cls(**config)

    def __repr__(self):
        if type(self).config is Module.config:  # a class of a user's that cannot be rebuilt
            return object.__repr__(self)
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"{type(self).__name__}({arguments})"

    def __reduce__(self):
        # pickle: views must not become arrays of their own. Gradients stay behind.
        return _rebuild, (type(self), self.config(), self.state_dict(), self.random_state)

    def __deepcopy__(self, memo):
        if memo:  # beside others, perhaps our container: its copy must have ours as a part
            from .layers.container import place_of

            root = place_of(self)[0]
            if root is not self:
                copy.deepcopy(root, memo)
                return memo[id(self)]
        rebuild, arguments = self.__reduce__()
        other = rebuild(*arguments)
        self._copied(other, memo)
        return other

    def _copied(self, other, memo) -> None:
        """Let whoever else refers to this module, or to a part of it, refer to that of the copy."""
        memo[id(self)] = other


class Views(dict):
    """Named views into a flat buffer, a fixed set: ``views[name] = values`` writes into the view.

    So ``params["bias"] += 1`` and ``params["bias"] = 0`` change the model, as one would expect,
    instead of putting an array into the dict that the model knows nothing of.
    """

    def bind(self, name, view):
        super().__setitem__(name, view)

    def __setitem__(self, name, values):
        if name not in self:
            raise KeyError(f"{name}: no such parameter; there are {', '.join(self)}")
        view = self[name]
        if values is not view:  # `views[name] += x` has already changed it
            view[...] = values

    def __copy__(self):
        return dict(self)

    def __reduce__(self):  # copy.deepcopy and pickle: plain arrays, which belong to no model
        return dict, ({name: view.copy() for name, view in self.items()},)

    def _fixed(self, *args, **kwargs):
        raise TypeError("the set of parameters is fixed; write into an array instead")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _fixed


def aligned_zeros(size: int, dtype) -> np.ndarray:
    """Return `size` zeros in a 1-D array that starts at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def roots(model: Module | Iterable[Module]) -> list[Module]:
    """Return the modules that together hold every parameter of `model` exactly once.

    A layer that was moved into a container is left out if the container is there too, and so is a
    module that is named twice or has no parameters.

    Raises
    ------
    TypeError
        ``model: expected a Module or a sequence of Modules, got ndarray``.
    """
    if isinstance(model, Module):
        return [model] if model._flat.size else []
    if not isinstance(model, Iterable):
        raise TypeError(f"model: expected a Module or a sequence of Modules, got {_kind(model)}")
    spans = []
    for module in model:
        if not isinstance(module, Module):
            raise TypeError(
                f"model: expected a Module or a sequence of Modules, got {_kind(module)}"
            )
        if module._flat.size:
            start = module._flat.ctypes.data
            spans.append((start, -module._flat.nbytes, len(spans), module))
    kept, covered = [], 0
    for start, negative_bytes, order, module in sorted(spans, key=lambda span: span[:3]):
        if start - negative_bytes > covered:  # buffers are nested or apart, never partly shared
            kept.append((order, module))
            covered = start - negative_bytes
    return [module for _, module in sorted(kept, key=lambda pair: pair[0])]


def describe(module: Module) -> dict:
    """Return class name and config of a module, from which `build` makes another.

    Raises
    ------
    TypeError
        ``Net: its config() does not fit its __init__``, of a class that has changed the one and
        not the other: what was saved could never be loaded.
    """
    kind, config = type(module), module.config()
    made_by, described_by = _definer(kind, "__init__"), _definer(kind, "config", "from_config")
    if made_by is not described_by and issubclass(made_by, described_by):
        try:
            other = kind.from_config(config)
        except Exception as error:
            raise TypeError(f"{kind.__name__}: its config() does not fit its __init__") from error
        if {n: a.shape for n, a in other._params.items()} != {
            n: a.shape for n, a in module._params.items()
        }:
            raise TypeError(f"{kind.__name__}: its config() builds other parameters")
    description = {"class": kind.__name__, "config": config}
    return description if _is_ours(kind) else {**description, "module": kind.__module__}


def build(description: dict) -> Module:
    """Build the module that `describe` described, with fresh parameters.

    Raises
    ------
    ValueError
        ``class: expected a known Module, got 'Foo'``: its definition has not been imported; or
        ``class: expected one Module, got 'Foo' of a, b``: none of them is where it was.
    """
    name, places = description["class"], _known(description["class"])
    if not places:
        raise ValueError(f"class: expected a known Module, got {name!r}")
    kinds = list(places.values())
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if kind.__module__ == description.get("module")]
    if len(kinds) != 1:
        found = ", ".join(".".join(place) for place in places)
        raise ValueError(f"class: expected one Module, got {name!r} of {found}")
    return kinds[0].from_config(description["config"])


def _known(name: str) -> dict:
    """Return the classes of this name by where they are defined."""
    if name not in Module._classes:
        fastrnn = sys.modules["fastrnn"]
        if name in getattr(fastrnn, "__all__", ()):
            getattr(fastrnn, name)  # the package imports its parts when they are first asked for
    return Module._classes.get(name, {})


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("fastrnn.")


def _definer(kind: type, *names: str) -> type:
    """Return the class that `kind` has one of these attributes from."""
    return next(base for base in kind.__mro__ if any(name in vars(base) for name in names))


def _rebuild(cls, config, state, random_state):
    module = cls.from_config(config)
    module.load_state_dict(state)
    module.load_random_state(random_state)
    return module


def _float_dtype(dtype) -> np.dtype:
    try:
        result = None if dtype is None else np.dtype(dtype)  # NumPy reads None as float64
    except TypeError:
        result = None
    if result is None or result not in _FLOATS:
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return result


def _cast(name, value, parameter) -> np.ndarray:
    """Return a copy of `value` in the dtype of `parameter`, or explain why there is none."""
    value = _as_array(name, value)
    if value.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
    if value.shape != parameter.shape:
        raise ValueError(f"{name}: expected shape {parameter.shape}, got {value.shape}")
    with np.errstate(over="ignore"):
        array = value.astype(parameter.dtype)
    if np.isinf(array).sum() != np.isinf(value).sum():
        raise ValueError(f"{name}: a value is too large for {parameter.dtype}")
    return array


def _kind(value) -> str:
    return type(value).__name__
