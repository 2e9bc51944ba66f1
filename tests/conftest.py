"""Fixtures that several test files share. Data sets are optional: tests that need one skip."""

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """Ctrl-C counts in a run in the background, too, whose shell has told it to ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir():
    """The folder of data sets beside the repository, ../shared/data."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the data sets of ../shared/data, which is absent here")
    return path
