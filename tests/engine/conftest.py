"""NumPy's BLAS on one thread, for the twin's sake; read when NumPy is first imported, so set here.

Its threads spin after each of the twin's small products and would take the cores from the engine's
team: on two busy cores the tests ran four times as long.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
