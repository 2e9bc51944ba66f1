"""The file that an interrupted training goes on from.

One safetensors file with everything that the next step depends on. As tensors: the model's
parameters (``0.weight_ih_l0``), the optimizer's memory and the carried recurrent state
(``trainer/...``). As JSON in the metadata: the model's configuration, epoch, step, position in the
data, best loss, schedule, random state, callbacks, the rows of all epochs, and the caller's
options. Data needs no random generator: whatever is drawn, is drawn from the seed and the number of
the epoch.

It is not the file that `fastrnn.load` reads; that holds the best model, this one the latest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .checkpoint import CANNOT_BUILD, below, check_json, read_tensors, write_tensors
from .module import Module, build, describe

FORMAT = "fastrnn training 1"


class SavedTraining(NamedTuple):
    """What `load_training` returns: model, `Trainer.state_dict`, and the caller's options."""

    model: Module
    trainer: dict
    options: dict


def last_path(path) -> Path:
    """Return where the training of a model at `path` is kept: ``model.last.safetensors``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.last{path.suffix}")


def save_training(trainer, path, options: dict | None = None) -> None:
    """Write a training to a file; an older file is replaced when the new one is complete.

    Parameters
    ----------
    trainer : Trainer
    path : str or Path
    options : dict, optional
        Whatever JSON can hold: for `load_training` to give back.

    Raises
    ------
    OSError
        Names `path`; the older file is as it was.
    TypeError
        As `pack_training`.
    """
    write_tensors(path, *pack_training(trainer, options))


def pack_training(trainer, options: dict | None = None) -> tuple[dict, dict]:
    """Return a training as the tensors and the metadata of its file.

    Parameters
    ----------
    trainer : Trainer
    options : dict, optional
        As in `save_training`.

    Raises
    ------
    TypeError
        ``model: expected a Module, got Net``, or whatever `describe` says about it; ``options/a:
        expected what JSON can hold, got int64``, ``trainer/callbacks/Mine: expected text as keys,
        got 1``.
    """
    if not isinstance(trainer.model, Module):
        raise TypeError(f"model: expected a Module, got {type(trainer.model).__name__}")
    tensors = trainer.model.state_dict()
    content = {
        "model": describe(trainer.model),
        "trainer": _take_arrays(trainer.state_dict(), "trainer", tensors),
        "options": options or {},
    }
    for name in ("model", "options"):
        check_json(content[name], name)
    return tensors, {"format": FORMAT, "content": json.dumps(content)}


def load_training(path) -> SavedTraining:
    """Read what `save_training` wrote.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ValueError
        ``PATH: expected format 'fastrnn training 1', got 'fastrnn model 1'``, ``PATH: cannot build
        the training (REASON)``, or that the file is truncated.
    OSError
        Names `path`.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {metadata.get('format')!r}")
    try:
        content = json.loads(metadata["content"])
        trainer = _put_arrays(content["trainer"], tensors)
        model = build(content["model"])
        model.load_state_dict(tensors)  # what is left of them
        options = content["options"]
    except CANNOT_BUILD as error:
        raise ValueError(f"{path}: cannot build the training ({error})") from error
    return SavedTraining(model, trainer, options)


def _take_arrays(tree, name, tensors):
    """Return a tree of dicts, tuples, lists, numbers and arrays as JSON; fill `tensors`."""
    if isinstance(tree, np.ndarray):
        if tree.dtype.kind not in "biufc" or tree.dtype.itemsize > 8:  # what safetensors knows
            raise TypeError(f"{name}: expected an array of numbers, got one of {tree.dtype}")
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": {k: _take_arrays(v, below(name, k), tensors) for k, v in tree.items()}}
    if isinstance(tree, (tuple, list)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_take_arrays(v, f"{name}/{k}", tensors) for k, v in enumerate(tree)]}
    leaf = tree.item() if isinstance(tree, np.generic) else tree
    check_json(leaf, name)
    return leaf


def _put_arrays(tree, tensors):
    """Return the tree that `_take_arrays` took apart; empty `tensors` of its arrays."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors.pop(content)
    if kind == "dict":
        return {k: _put_arrays(v, tensors) for k, v in content.items()}
    values = [_put_arrays(v, tensors) for v in content]
    return tuple(values) if kind == "tuple" else values
