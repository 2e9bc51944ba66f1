"""``pytest tests/parity --full`` runs every case instead of a covering sample."""


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every parity case (150,528 of them)")
