"""docs/math.md and those who cite it: a number in a comment leads to an equation."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MATH = ROOT / "docs" / "math.md"
NUMBER = r"[A-Z]{1,2}\d{1,2}"
# (L3), (G1, G2), (X1-X4), (L5 .. L9): numbers in parentheses, and nothing but what joins them
CITATION = re.compile(rf"\(({NUMBER}(?:(?:, ?| ?- ?|–| \.\. | to | and ){NUMBER})*)\)")
# what has a number ends with it, behind a gap if it is not an indented line
DEFINITION = re.compile(rf"^(?:    .*\S +|.*\S  +)\(({NUMBER})\)$")


def numbers_of(text):
    return [n for found in CITATION.findall(text) for n in re.findall(NUMBER, found)]


def equations():
    lines = MATH.read_text().splitlines()
    return [found.group(1) for found in map(DEFINITION.match, lines) if found]


def citing_files():
    endings = {".py", ".pyx", ".pxi", ".pyi", ".c", ".h"}
    for folder in ("src", "csrc", "tests", "bench"):
        for path in (ROOT / folder).rglob("*"):
            ours = not any(part == "build" or part.startswith(".") for part in path.parts)
            if path.suffix in endings and ours and path.name != "test_math.py":
                yield path


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("dc += dh (L6); then (L7, L9)", ["L6", "L7", "L9"]),
        ("(X1-X4), (L5 .. L9), (R5)–(R7)", ["X1", "X4", "L5", "L9", "R5", "R7"]),
        ("(GB1) of f(B1x), (T, B), (B) and (H2O)", ["GB1"]),
    ],
)
def test_citations_are_recognised(text, numbers):
    assert numbers_of(text) == numbers


def test_every_equation_has_a_number_of_its_own_in_order():
    found = equations()
    assert len(found) > 100
    assert sorted(found) == sorted(set(found))
    for series in {re.sub(r"\d", "", n) for n in found}:
        counted = [int(n[len(series) :]) for n in found if re.sub(r"\d", "", n) == series]
        assert counted == list(range(1, len(counted) + 1)), series


def test_every_cited_equation_exists():
    known, cited, missing = set(equations()), 0, []
    for path in [MATH, ROOT / "CONTRIBUTING.md", *citing_files()]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for equation in numbers_of(line):
                cited += 1
                if equation not in known:
                    missing.append(f"{path.relative_to(ROOT)}:{number}: ({equation})")
    assert cited > 500
    assert not missing
