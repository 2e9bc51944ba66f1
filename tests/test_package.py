"""What is shipped: the sdist, the wheel built from it alone, and what `import fastrnn` loads.

The wheel costs one compilation of the whole core. Nothing is downloaded: the build runs on the
setuptools and Cython that are installed beside the tests.
"""

import importlib.metadata
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
MEGABYTE = 1_000_000
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer


def build(kind, source, target):
    """Build `source` with the PEP 517 hook of `kind`; return the path of the result in `target`."""
    hook = f"from setuptools import build_meta as b; b.build_{kind}({str(target)!r})"
    run = subprocess.run(
        [sys.executable, "-c", hook], cwd=source, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    for tool in ("setuptools", "Cython"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"needs {tool} to build the package")
    # A copy without *.egg-info: setuptools would take over the file list of an earlier build.
    copy = tmp_path_factory.mktemp("copy") / "fastrnn"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info"))
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, **SAFELY)
    (source,) = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist_files(sdist):
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="session")
def wheel_files(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="session")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def c_files():
    return {p for p in CSRC.rglob("*.[ch]") if "build" not in p.relative_to(CSRC).parts}


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_a_distribution_is_at_most_two_megabytes(kind, request):
    assert request.getfixturevalue(kind).stat().st_size <= 2 * MEGABYTE


def test_the_sdist_carries_every_file_of_the_c_core(sdist_files):
    needed = {*c_files(), CSRC / "Makefile", CSRC / "sources.mk"}
    assert {p.relative_to(ROOT).as_posix() for p in needed} - sdist_files == set()


def test_the_sdist_carries_the_tests_the_docs_and_the_license(sdist_files):
    assert {"LICENSE", "CHANGELOG.md", "docs/math.md", "tests/conftest.py"} <= sdist_files


def test_the_sdist_carries_nothing_that_was_compiled_or_generated(sdist_files):
    made = re.compile(r"\.(so|pyd|o|a|pyc)$|(^|/)build/|^src/.*\.c$")
    assert [f for f in sdist_files if made.search(f)] == []


def test_the_wheel_carries_one_extension_module(wheel_files):
    assert len([f for f in wheel_files if re.fullmatch(r"fastrnn/_core\..*(so|pyd)", f)]) == 1


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi", "__init__.py"])
def test_the_wheel_carries_what_a_type_checker_reads(wheel_files, name):
    assert f"fastrnn/{name}" in wheel_files


def test_the_wheel_carries_every_python_module_of_the_source_tree(wheel_files):
    modules = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert modules - wheel_files == set()


def test_the_wheel_carries_no_sources_of_the_extension_and_no_tests(wheel_files):
    beside = [f for f in wheel_files if not re.match(r"fastrnn(/|-[\d.]+\.dist-info/)", f)]
    assert beside + [f for f in wheel_files if re.search(r"\.(c|h|pyx|pxd|pxi|mk)$", f)] == []


def test_the_runtime_requirements_are_exactly_numpy_safetensors_and_tqdm(metadata):
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert sorted(required) == ["numpy", "safetensors", "tqdm"]


def test_the_wheel_states_its_license_and_the_oldest_python(metadata):
    assert "License-Expression: BSD-3-Clause\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata


def test_the_installed_version_is_the_version_of_the_source():
    assert importlib.metadata.version("fastrnn") == fastrnn.__version__


def test_importing_fastrnn_loads_numpy_and_nothing_else_from_outside_the_standard_library(tmp_path):
    script = (
        "import json, sys, numpy; before = set(sys.modules); import fastrnn;"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = {m for m in json.loads(run.stdout) if not re.match("_?cython_", m)}  # Cython's runtime
    assert loaded - sys.stdlib_module_names <= {"numpy", "fastrnn"}


def test_every_public_module_is_at_hand_after_the_import_alone():
    names = {m.name for m in pkgutil.iter_modules(fastrnn.__path__) if not m.name.startswith("_")}
    script = "import fastrnn; print(*dir(fastrnn))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert names - set(run.stdout.split()) == set()
    assert all(getattr(fastrnn, name) for name in names)


def test_every_c_file_is_compiled_or_included_by_one_that_is():
    listed = re.findall(r"[\w/]+\.c", re.sub("#.*", "", (CSRC / "sources.mk").read_text()))
    files = {p.relative_to(CSRC).as_posix(): p.read_text() for p in c_files()}
    assert set(listed) - set(files) == set()
    included = set(re.findall(r'#\s*include\s+"(?:\.\./)*([\w/]+\.c)"', "\n".join(files.values())))
    programs = {name for name in files if name.startswith("tests/")}
    assert {f for f in files if f.endswith(".c")} - set(listed) - included - programs == set()


def test_the_code_that_the_readme_shows_runs_and_what_it_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert shown
    for code in shown:
        exec(code, {})
    named = set(re.findall(r"`fr\.(\w+)", text))
    assert len(named) > 15 and not [name for name in named if not hasattr(fastrnn, name)]
