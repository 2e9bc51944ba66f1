"""A few kills of `kill_and_resume.py`, which does as many as one likes."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kill_and_resume import compare, equal


@pytest.mark.skipif(os.name == "nt" or not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_training_killed_at_random_moments_ends_like_an_unbroken_one(tmp_path, capsys):
    assert compare(tmp_path, kills=3, rng=random.Random(1), epochs=4) == 0
    assert "bit for bit" in capsys.readouterr().out


def test_the_comparison_sees_a_single_bit():
    import numpy as np

    one = {"weights": {"w": np.ones(3, np.float32)}, "log": [{"epoch": 1}]}
    other = {"weights": {"w": np.ones(3, np.float32)}, "log": [{"epoch": 1}]}
    assert equal(one, other)
    other["weights"]["w"][1] = np.nextafter(np.float32(1), np.float32(2))
    assert not equal(one, other)
