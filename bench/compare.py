"""Compare two result files: ``python bench/compare.py BEFORE.json AFTER.json``.

Prints, for each row that both files have, fastrnn's time in each and BEFORE / AFTER: above 1 is
faster now. Two runs on a shared machine are not interleaved, so the other contender's ratio is
printed too: where that one is far from 1, the machine changed and not the code.
"""

import argparse
import json
from pathlib import Path

from measure import table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/compare.py old.json bench/results/numpy.json",
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = read(options.before), read(options.after)
    common = [key for key in before if key in after]
    if not common:
        parser.exit(1, f"{options.before} and {options.after} have no row in common\n")
    # A contender may have left a row blank.
    both = {key: [name for name in before[key] if name in after[key]] for key in common}
    common = [key for key in common if "fastrnn" in both[key]]
    others = list(dict.fromkeys(n for key in common for n in both[key] if n != "fastrnn"))
    header = ["work, T B I H", "before us", "after us", "fastrnn", *others]
    rows = []
    for key in common:
        old, new = before[key], after[key]
        ratios = [
            f"{old[name] / new[name]:.2f}" if name in both[key] else ""
            for name in ("fastrnn", *others)
        ]
        rows.append([key, f"{old['fastrnn']:,.1f}", f"{new['fastrnn']:,.1f}", *ratios])
    print(table(header, rows), end="")


def read(path):
    """Rows of a result file as ``{label: {contender: median us}}``."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {
        f"{row['cell'].upper()} {row['work']}, {' '.join(map(str, row['shape']))}": {
            name: times["median"] for name, times in row["us"].items()
        }
        for row in rows
    }


if __name__ == "__main__":
    main()
