"""The file that an interrupted training goes on from.

One safetensors file: the model's parameters, the optimizer's state and the carried recurrent state
as tensors; everything else (configuration, step, epoch, position in the data, best loss) as JSON in
the metadata. There is no random generator in it because there is no running one: whatever is drawn
during a training is drawn from the seed and the epoch's number.

It is not what `fastrnn.load` reads; that is the best model, in a file of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checkpoint import read_tensors, write_tensors

FORMAT = "fastrnn training 1"


def last_path(path) -> Path:
    """Return where the training of a model at `path` is kept: ``model.last.safetensors``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.last{path.suffix}")


@dataclass
class SavedTraining:
    """What `load_training` read: the arguments it was saved with, as plain data and arrays."""

    options: dict
    model: dict
    trainer: dict


def save_training(trainer, path, options: dict) -> None:
    """Write a training to a file, atomically.

    Parameters
    ----------
    trainer : Trainer
    path : str or Path
    options : dict
        Whatever JSON can hold: for `load_training` to give back.
    """
    tensors = {}
    content = {
        "options": options,
        "model": trainer.model.state_dict(),
        "trainer": trainer.state_dict(),
    }
    skeleton = _to_json(content, "", tensors)
    write_tensors(path, tensors, {"format": FORMAT, "content": json.dumps(skeleton)})


def load_training(path) -> SavedTraining:
    """Read what `save_training` wrote.

    Raises
    ------
    FileNotFoundError, OSError
    ValueError
        "model.last.safetensors: not a training saved by fastrnn (...)".
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected a training saved by fastrnn (format {FORMAT!r}), "
            f"got format {metadata.get('format')!r}"
        )
    return SavedTraining(**_from_json(json.loads(metadata["content"]), tensors))


def _to_json(tree, name, tensors):
    """Move the arrays of a tree of dicts, tuples and scalars to `tensors`; leave their names."""
    if isinstance(tree, np.ndarray):
        tensors[name] = np.ascontiguousarray(tree)
        return {"tensor": name}
    if isinstance(tree, dict):
        return {
            "dict": {k: _to_json(v, f"{name}.{k}" if name else k, tensors) for k, v in tree.items()}
        }
    if isinstance(tree, (tuple, list)):
        return {
            type(tree).__name__: [_to_json(v, f"{name}.{k}", tensors) for k, v in enumerate(tree)]
        }
    return tree.item() if isinstance(tree, np.generic) else tree


def _from_json(skeleton, tensors):
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _from_json(v, tensors) for k, v in content.items()}
    return {"tuple": tuple, "list": list}[kind](_from_json(v, tensors) for v in content)
