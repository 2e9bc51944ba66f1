"""The scripts of bench/tasks run, and say what they miss. Their figures are in bench/results."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "bench" / "tasks"


def run(name, *options):
    command = [sys.executable, SCRIPTS / f"{name}.py", "--no-write", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_task_prints_its_table_and_fails_where_the_target_is_missed():
    options = "--length 10 --hidden 4 --updates 3 --epochs 2 --cells lstm gru --threads 1".split()
    done = run("adding", *options, "--target", "1e-9")
    assert done.returncode == 1 and "missed by 2 of 2" in done.stderr
    assert "| LSTM | never | 6 |" in done.stdout and "| GRU | never | 6 |" in done.stdout
    assert run("adding", *options, "--target", "1e9").returncode == 0


def test_tiny_shakespeare_trains_on_any_text_that_is_long_enough(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, " * 51_000, encoding="utf-8")
    options = "--hidden 4 --layers 1 --batch 500 --seq-len 400 --epochs 1 --target 9".split()
    done = run("shakespeare", text, *options)
    assert done.returncode == 0 and "| to the target | 1 |" in done.stdout, done.stderr


@pytest.mark.parametrize("name, file", [("shakespeare", "tiny.txt"), ("jsb", "JSB.mat")])
def test_absent_data_is_named_together_with_where_to_find_it(name, file, tmp_path):
    pytest.importorskip("scipy") if name == "jsb" else None
    done = run(name, tmp_path / file)
    assert done.returncode == 1 and not done.stdout
    assert f"{tmp_path / file} is absent: pass the path of " in done.stderr
