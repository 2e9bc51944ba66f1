"""The command line: ``fastrnn COMMAND ...``, one module per command in this package.

A command's module has `configure(parser)`, which adds its arguments, and `run(args)`, which returns
an exit code. Only the module of the command in use is imported, and it imports what it needs when
it runs: ``--help`` answers at once.

Exit codes: 0 done, 1 failed or no longer read, 2 refused by the argument parser, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from contextlib import contextmanager

from .._version import __version__

COMMANDS = {
    "train": "train a character model on a text",
    "sample": "write text with a trained model",
    "demo": "show one idea, from nothing to a result",
    "bench": "compare with NumPy on this machine",
    "info": "show version, instruction set, threads and BLAS",
}


class CommandError(Exception):
    """Something the user has to put right: told in one line, without a traceback."""


def reason(error: OSError) -> str:
    """Return which file it was and why: "model.safetensors: Permission denied"."""
    # All files are opened by name, so what fails without one is what was there from the start.
    return f"{error.filename or 'standard output'}: {error.strerror}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; those of the process by default.

    Examples
    --------
    >>> from fastrnn.cli import main
    >>> main(["--version"])  # doctest: +ELLIPSIS
    fastrnn ...
    0
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _standard_output():
            return _dispatch(argv)
    except SystemExit as stop:  # argparse has printed help, version or a usage error
        return stop.code or 0
    except CommandError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            return 1  # `fastrnn sample ... | head`
        message = reason(error)
    print(f"{' '.join(['fastrnn', *argv[:1]])}: error: {message}", file=sys.stderr)
    return 1


@contextmanager
def _standard_output():
    """Let any text be printed, and let what cannot be written fail here, not as Python exits."""
    if sys.stdout is None:  # closed by who called: `fastrnn info >&-`
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if hasattr(sys.stdout, "reconfigure"):  # a program may have put something else there
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is None:  # Python would try again to write what is left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _dispatch(argv):
    if argv and argv[0] in COMMANDS:
        module = importlib.import_module(f".{argv[0]}", __name__)
        parser = argparse.ArgumentParser(
            prog=f"fastrnn {argv[0]}",
            description=module.__doc__,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.configure(parser)
        return module.run(parser.parse_args(argv[1:]))
    parser = argparse.ArgumentParser(
        prog="fastrnn",
        usage="fastrnn [-h] [--version] COMMAND ...",
        description="Recurrent neural networks on the CPU.\n\ncommands:\n"
        + "\n".join(f"  {name:<8} {line}" for name, line in COMMANDS.items())
        + "\n\n`fastrnn COMMAND --help` describes one.",
        epilog="example:\n  fastrnn demo char-lm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.parse_args(argv)
    raise AssertionError("argparse accepts no command that is not one")
