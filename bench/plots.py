"""Pictures of a result of ``peers.py``: ratio over H for each B, and the share of the limit.

python bench/peers.py --only-report bench/results/peers.json --plot peers.svg
"""

from grid import GATES, MODES


def draw(result, path):
    """Write a picture of the rows with the most threads, one layer, float32, dense or tokens."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    matplotlib.rcParams |= {"svg.hashsalt": "fastrnn", "svg.fonttype": "none", "font.size": 8}
    import matplotlib.pyplot as plt

    most = max(row["threads"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["threads"] == most and _plain(row)]
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    cells = [cell for cell in GATES if any(row["cell"] == cell for row in rows)]
    if not rows:
        raise SystemExit("plot: no row with fastrnn, one layer and float32")
    figure, grid = plt.subplots(
        2 * len(modes),
        len(cells),
        figsize=(3 * len(cells) + 0.6, 4.2 * len(modes)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    batches = sorted({row["shape"][1] for row in rows})
    for m, mode in enumerate(modes):
        for c, cell in enumerate(cells):
            these = [row for row in rows if row["mode"] == mode and row["cell"] == cell]
            upper, lower = grid[2 * m][c], grid[2 * m + 1][c]
            for k, B in enumerate(batches):
                style = {"marker": "o", "markersize": 3, "color": f"C{k}", "label": f"B = {B}"}
                _line(
                    upper, [r for r in these if r["shape"][1] == B and "ratio" in r], style, "ratio"
                )
                _line(lower, [r for r in these if r["shape"][1] == B], style, "of_limit")
            upper.axhline(1, color="0.6", linewidth=0.8)
            upper.set_yscale("log", base=2)
            upper.yaxis.set_major_formatter("{x:g}")
            lower.set_ylim(0, 1.05)
            lower.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
            lower.set_xscale("log", base=2)
            lower.xaxis.set_major_formatter("{x:g}")
            upper.set_title(f"{cell.upper()} {mode}")
            if c == 0:
                upper.set_ylabel("best peer / fastrnn")
                lower.set_ylabel("of the limit")
    for ax in grid[-1]:
        ax.set_xlabel("H")
    handles = {
        name: handle
        for ax in grid.flat
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
    )
    # Without a date: the same figures give the same bytes.
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _plain(row):
    kind = row["work"].partition(",")[0].split()
    return "of_limit" in row and kind in ([row["mode"]], [row["mode"], "tokens"])


def _line(ax, rows, style, value):
    points = sorted((row["shape"][3], row[value]) for row in rows)
    if points:
        ax.plot(*zip(*points, strict=True), **style)
