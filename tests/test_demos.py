"""`fastrnn demo`: the list, every demo in its quick form, its picture, and what goes wrong."""

import contextlib
import io
import json

import pytest

from fastrnn import tasks
from fastrnn.cli import main


@pytest.fixture(scope="module")
def quick():
    """Run a demo in its quick form, once in all: its text and figures."""
    ran = {}

    def run(name):
        if name not in ran:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                figures = tasks.load(name).run(quick=True)
            ran[name] = out.getvalue(), figures
        return ran[name]

    return run


@pytest.fixture
def pretend(monkeypatch):
    """Put a function in the place of what char-lm runs."""

    def put(run):
        monkeypatch.setattr(tasks.load("char-lm"), "run", run)

    return put


def wet(quick, progress):
    tasks.check("water is wet", True)
    return {"wetness": 1.0, "curve": [[1, 3.0, 3.1], [2, 2.0, 2.2]]}


def error_of(capsys, *arguments):
    assert main(["demo", *map(str, arguments)]) == 1
    return capsys.readouterr().err.removeprefix("fastrnn demo: error: ").rstrip("\n")


# Every demo


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_quick_demo_proves_what_it_says(quick, name):
    text, _ = quick(name)
    assert "\nchecked: " in text


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_figures_of_a_demo_can_be_json(quick, name):
    _, figures = quick(name)
    assert figures
    assert json.loads(json.dumps(figures, allow_nan=False)).keys() == figures.keys()


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_demo_draws_the_same_small_picture_twice(quick, name, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    from fastrnn.tasks.drawing import draw

    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    for path in one, two:
        draw(tasks.load(name), quick(name)[1], path)
    assert one.read_bytes() == two.read_bytes()
    assert b"dc:date" not in one.read_bytes()
    assert 1_000 < one.stat().st_size < 60_000


# The command


def test_without_a_name_the_demos_are_listed(capsys):
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, says in tasks.TASKS.items():
        assert any(line.split() == [name, *says.split()] for line in lines)


def test_the_list_as_json_is_one_object_a_demo(capsys):
    assert main(["demo", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["demo"]: row["says"] for row in rows} == tasks.TASKS


def test_a_demo_as_json_is_one_object_with_its_figures(pretend, capsys):
    pretend(wet)
    assert main(["demo", "char-lm", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["demo"], row["wetness"]) == ("char-lm", 1.0)


def test_a_demo_whose_claim_fails_exits_with_1(pretend, capsys):
    pretend(lambda quick, progress: tasks.check("water is dry", False))
    assert error_of(capsys, "char-lm") == "did not come true: water is dry"


def test_an_unknown_demo_is_answered_with_the_names(capsys):
    names = ", ".join(tasks.TASKS)
    assert error_of(capsys, "fly") == f"demo: expected one of {names}, got 'fly'"


@pytest.mark.parametrize(("suffix", "starts"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_plot_writes_the_kind_of_file_that_its_name_says(pretend, tmp_path, suffix, starts):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    pretend(wet)
    path = tmp_path / f"water.{suffix}"
    assert main(["demo", "char-lm", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(starts)


def test_without_matplotlib_a_picture_is_refused_before_the_demo_runs(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "char-lm", "--plot", "water.svg"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "pip install matplotlib" in err


def test_a_picture_of_no_demo_is_refused(capsys):
    assert main(["demo", "--plot", "water.svg"]) == 1
    assert (
        capsys.readouterr().err == "fastrnn demo: error: --plot: expected a demo's NAME with it\n"
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("water.gif", "--plot: expected a file ending in .svg or .png, got water.gif"),
        ("nowhere/water.svg", "--plot: no folder nowhere"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_demo_runs(
    capsys, tmp_path, monkeypatch, path, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "char-lm", "--plot", path]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"fastrnn demo: error: {message}\n")
