"""What all pictures share: one look, and files that come out the same every time."""

from __future__ import annotations

import contextlib

STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text: small, and searchable
    "svg.hashsalt": "fastrnn",  # the names inside an SVG are random otherwise
}
SUFFIXES = (".svg", ".png")


def panels(rows=1, columns=1, width=None, height=2.8, **options):
    """Return an empty Figure and its axes, as ``matplotlib.pyplot.subplots`` does.

    No window, no global state: nothing of pyplot is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width or 3.6 * columns, height * rows))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def draw(task, figures, path) -> None:
    """Write the picture of a task's figures, SVG or PNG; the same figures give the same bytes."""
    blank = {"Date": None, "Creator": None} if str(path).endswith(".svg") else {"Software": None}
    with style():
        task.picture(figures).savefig(path, metadata=blank)


@contextlib.contextmanager
def style():
    """Matplotlib's settings, ours for as long as this lasts."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        yield
