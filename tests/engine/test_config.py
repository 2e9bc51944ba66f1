"""What the environment asks for: threads, instruction set, BLAS; and what show_config answers.

What it is: what is read at import, in a fresh interpreter, and the reading alone, in this one.
What it is not: set_num_threads (test_threads.py), computing with another BLAS (test_blas.py).
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _core, config

sys.path.insert(0, str(Path(__file__).parent))
from cells import arrays, build, identical, inputs, python

SHOW = "import fastrnn, json; print(json.dumps(fastrnn.show_config()))"
NAMES = ("FASTRNN_ISA", "FASTRNN_NUM_THREADS", "FASTRNN_BLAS", "OMP_NUM_THREADS")
NOTHING = dict.fromkeys(NAMES)
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def shown(**environment):
    run = python(SHOW, **{**NOTHING, **environment})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def refused(**environment):
    """The last line that an import with these settings leaves on stderr."""
    run = python("import fastrnn", **{**NOTHING, **environment})
    assert run.returncode != 0
    return run.stderr.strip().splitlines()[-1]


def test_without_settings_the_best_instruction_set_and_every_cpu_are_used():
    found = shown()
    assert found["isa"] == found["isa_available"][0]
    assert found["num_threads"] == found["cpus"] == CPUS
    assert found["blas"] == "own"
    assert found["version"] == fr.__version__
    assert set(found) == set(fr.show_config())


@pytest.mark.parametrize("isa", fr.show_config()["isa_available"])
def test_every_available_instruction_set_can_be_asked_for(isa):
    assert shown(FASTRNN_ISA=isa, FASTRNN_NUM_THREADS="3")["isa"] == isa


def test_portable_is_always_there_and_last():
    assert fr.show_config()["isa_available"][-1] == "portable"


def test_an_unknown_instruction_set_is_an_error_that_lists_the_usable_ones():
    usable = ", ".join(fr.show_config()["isa_available"])
    expected = f"ValueError: FASTRNN_ISA: expected one of {usable}, got 'mmx'"
    assert refused(FASTRNN_ISA="mmx") == expected


@pytest.mark.parametrize(
    "isa", sorted({"avx512", "avx2", "neon"} - set(fr.show_config()["isa_available"]))
)
def test_an_instruction_set_that_this_machine_lacks_is_an_error_that_lists_the_usable_ones(isa):
    usable = ", ".join(fr.show_config()["isa_available"])
    with pytest.raises(ValueError, match=f"FASTRNN_ISA: expected one of {usable}, got '{isa}'"):
        _core.select_isa(isa)
    assert _core.isa() == fr.show_config()["isa"] != isa


@pytest.mark.parametrize("name", ["", "AVX2", "avx2 ", "a" * 1000, "é"])
def test_a_name_that_is_nearly_one_selects_nothing(name):
    before = _core.isa()
    with pytest.raises(ValueError, match="FASTRNN_ISA: expected one of"):
        _core.select_isa(name)
    assert _core.isa() == before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, min(CPUS, 64)),
        ({"FASTRNN_NUM_THREADS": "3"}, 3),
        ({"FASTRNN_NUM_THREADS": " 64 "}, 64),
        ({"FASTRNN_NUM_THREADS": "3", "OMP_NUM_THREADS": "7"}, 3),
        ({"FASTRNN_NUM_THREADS": "", "OMP_NUM_THREADS": "7"}, 7),
        ({"OMP_NUM_THREADS": "7,2"}, 7),
        ({"OMP_NUM_THREADS": "many"}, min(CPUS, 64)),
        ({"OMP_NUM_THREADS": "0"}, min(CPUS, 64)),
    ],
    ids=str,
)
def test_the_number_of_threads_comes_from_our_variable_then_openmps_then_the_cpus(
    monkeypatch, environment, expected
):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert config._threads_wanted() == expected


@pytest.mark.parametrize("text", ["0", "65", "-1", "1.5", "two", "0x2", "²", "1e1", "9" * 40])
def test_a_number_of_threads_that_cannot_be_is_an_error(monkeypatch, text):
    monkeypatch.setenv("FASTRNN_NUM_THREADS", text)
    with pytest.raises(ValueError, match="FASTRNN_NUM_THREADS: expected 1 to 64, got") as error:
        config._threads_wanted()
    assert str(error.value).endswith(f"got {text!r}")


def test_a_number_of_threads_that_cannot_be_stops_the_import():
    expected = "ValueError: FASTRNN_NUM_THREADS: expected 1 to 64, got 'two'"
    assert refused(FASTRNN_NUM_THREADS="two") == expected


def test_an_unknown_blas_stops_the_import_with_a_list_of_the_known_ones():
    expected = "ValueError: FASTRNN_BLAS: expected one of auto, own, numpy, scipy, got 'mkl'"
    assert refused(FASTRNN_BLAS="mkl") == expected


def test_a_blas_whose_package_is_absent_stops_the_import_and_says_so():
    code = "import sys; sys.modules['scipy'] = None; import fastrnn"
    run = python(code, **{**NOTHING, "FASTRNN_BLAS": "scipy"})
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    expected = "FASTRNN_BLAS=scipy: no usable CBLAS found; is the package installed?"
    assert last == f"RuntimeError: {expected}"


def test_settings_that_are_empty_count_as_absent():
    found = shown(FASTRNN_ISA="", FASTRNN_NUM_THREADS="", FASTRNN_BLAS="", OMP_NUM_THREADS="")
    assert (found["num_threads"], found["blas"]) == (CPUS, "own")


def test_own_is_what_auto_chooses_and_both_say_why():
    reasons = {name: config._choose_blas(name) for name in ("own", "auto")}
    assert _core.blas() == "own"
    assert reasons["own"] == "asked for" and reasons["auto"].startswith("own kernels")
    config._choose_blas(os.environ.get("FASTRNN_BLAS") or "auto")


def test_one_cpu_means_one_thread():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs os.sched_setaffinity")
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + SHOW
    run = python(code, **NOTHING)
    assert run.returncode == 0, run.stderr
    assert '"num_threads": 1' in run.stdout and '"cpus": 1' in run.stdout


def test_the_portable_kernels_compute_nearly_what_the_ones_in_use_do():
    layer = build("lstm")
    x, state, *_ = inputs(layer)
    folder = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); from cells import *\n"
        "layer = build('lstm'); x, state, *_ = inputs(layer)\n"
        "print(*(a.tobytes().hex() for a in arrays(layer(x, state))))"
    )
    run = python(code, FASTRNN_ISA="portable")
    assert run.returncode == 0, run.stderr
    for ours, text in zip(arrays(layer(x, state)), run.stdout.split(), strict=True):
        theirs = np.frombuffer(bytes.fromhex(text), np.float32).reshape(ours.shape)
        assert np.allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        assert identical(ours, theirs) or _core.isa() != "portable"
