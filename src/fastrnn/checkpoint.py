"""save and load: a model in one safetensors file.

Never pickle: loading a file runs none of its code.

The tensors have the names of `Module.state_dict`, so other programs can read them. What is needed
to build the model again is in the file's metadata: under "format" the name of this layout, and
under "model" the JSON of `module.describe`.

A file is written beside its final place, flushed to the disk, and then renamed: at any moment the
path holds either the whole old file or the whole new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Mapping

import numpy as np

from .module import Module, build, describe

FORMAT = "fastrnn model 1"
# What building a model from a file's description may raise, whatever that says.
CANNOT_BUILD = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
)


def save(model, path) -> None:
    """Write a model to a file.

    Parameters
    ----------
    model : Module
    path : str or path-like
        An existing file is replaced only when the new one is complete on disk, which gets its
        permissions.

    Raises
    ------
    OSError
        ``[Errno 13] Permission denied: PATH`` and the like; an old file is as it was.
    TypeError
        ``model: expected a Module, got ndarray``, or the model has no ``config()``, or one that
        does not fit it or JSON: ``model/config/size: expected what JSON can hold, got int64``.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastrnn as fr
    >>> model = fr.Linear(3, 2, seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> fr.save(model, path)
    >>> bool((fr.load(path).params["weight"] == model.params["weight"]).all())
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    description = describe(model)
    check_json(description, "model")
    metadata = {"format": FORMAT, "model": json.dumps(description)}
    write_tensors(path, model.state_dict(), metadata)


def load(path) -> Module:
    """Read the model that `save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Module
        Of the class that was saved; a class of your own must have been imported.

    Raises
    ------
    ValueError
        ``PATH: not a whole safetensors file (REASON)``, ``PATH: expected format 'fastrnn model 1',
        got None``, ``PATH: cannot build the model (REASON)``: also if tensors and configuration do
        not fit together.
    OSError
        ``[Errno 2] No such file or directory: PATH`` and the like.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {metadata.get('format')!r}")
    try:
        model = build(json.loads(metadata["model"]))
        model.load_state_dict(tensors)
    except CANNOT_BUILD as error:
        raise ValueError(f"{path}: cannot build the model ({error})") from error
    return model


def write_tensors(path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and strings to a safetensors file, in one step as far as a reader can see.

    Parameters
    ----------
    path : str or path-like
    tensors : mapping of str to ndarray
    metadata : mapping of str to str

    Raises
    ------
    OSError
        Names `path`; an old file is as it was.
    """
    from safetensors.numpy import save as to_bytes

    # to_bytes would write a strided array's memory, not its elements.
    dense = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_whole(path, to_bytes(dense, dict(metadata)))


def write_whole(path, data: bytes) -> None:
    """Write a file in one step as far as a reader can see, whatever happens meanwhile.

    Raises
    ------
    OSError
        Names `path`; an old file is as it was. So it is for what is no regular file, a device say.
    """
    path = os.fspath(path)
    target = _target(path)
    temporary = temporary_name(target)
    try:
        mode = os.stat(target).st_mode & 0o777 if os.path.exists(target) else None

        def private(name, flags):  # at no moment more readable than the file that it replaces
            return os.open(name, flags, 0o666 if mode is None else mode)

        try:
            with open(temporary, "xb", opener=private) as file:
                if mode is not None:
                    with contextlib.suppress(OSError):  # where a file system knows no such thing
                        os.chmod(temporary, mode)  # what the umask took away
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C too
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        _sync_directory(os.path.dirname(target))
    except OSError as error:  # the temporary name would tell the caller nothing
        raise type(error)(error.errno, error.strerror, path) from None


def check_writable(path) -> None:
    """Find out whether `write_whole` can write a file: before hours of work, not after them.

    Raises
    ------
    OSError
        What `write_whole` would raise. Nothing is left behind or changed.
    """
    path = os.fspath(path)
    temporary = temporary_name(_target(path))
    try:
        open(temporary, "xb").close()
        os.unlink(temporary)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None


def _target(path: str) -> str:
    """Return what `path` stands for: through a link, not in its place."""
    target = os.path.realpath(path)
    if not os.path.basename(path) or os.path.isdir(target):  # "new/" names a folder, as for open
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "expected a regular file", path)
    return target


def check_json(tree, name):
    """Refuse what JSON cannot hold, or would give back as something else, but for tuples."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            check_json(value, below(name, key))
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            check_json(value, f"{name}/{i}")
    elif tree is not None and not isinstance(tree, (int, float, str)):
        raise TypeError(f"{name}: expected what JSON can hold, got {type(tree).__name__}")


def below(name, key):
    """Return the name of what a dict has under a key; JSON would turn other keys into text."""
    if not isinstance(key, str):
        raise TypeError(f"{name}: expected text as keys, got {key!r}")
    return f"{name}/{key}"


def temporary_name(target: str) -> str:
    """Return a new name beside a file: in its folder, since a rename works within a disk."""
    return f"{target}.{os.urandom(4).hex()}.tmp"


def remove_temporaries(path) -> None:
    """Remove what `write_whole` left beside `path` when its process was killed.

    Only for the one who owns the path: another process may be about to rename its own.
    """
    folder, name = os.path.split(os.path.realpath(path))
    ours = re.compile(re.escape(name) + r"\.[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):  # a folder that is gone is reported by who writes into it
        for entry in os.listdir(folder):
            if ours.fullmatch(entry):
                os.unlink(os.path.join(folder, entry))


def read_tensors(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Returns
    -------
    tensors : dict of str to ndarray
    metadata : dict of str to str

    Raises
    ------
    ValueError
        ``PATH: not a whole safetensors file (REASON)``.
    OSError
        Names `path`.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # for its errors: those of safetensors do not name the file
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:  # OSError: too short to be mapped into memory
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def _sync_directory(directory: str) -> None:
    """Make a rename survive a power failure, where a directory can be opened (not on Windows)."""
    # The new file is in its place: to fail now would tell the caller that the old one still is.
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
