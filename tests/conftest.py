"""What every test has: profiles for generated cases, a directory of its own for records, no telemetry settings from outside."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import canary
from tests.patience import patient
from tests.servers.authorization import authorization_server, start_authorization_server
from tests.servers.glewlwyd import glewlwyd, start_glewlwyd

__all__ = ["authorization_server", "glewlwyd", "start_authorization_server", "start_glewlwyd"]

ROOT = Path(__file__).resolve().parent.parent

# HYPOTHESIS_PROFILE: `dev` (default) finds new cases and remembers them, `ci` tries the same ones every time, `campaign` searches long.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "campaign",
    deadline=timedelta(seconds=10),
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# In the background of a shell Ctrl-C is ignored, and what the tests start would inherit that and never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count()
patient()
canary.install()


@pytest.fixture(scope="module", autouse=True)
def no_secret_leaves() -> Iterator[None]:
    """Whatever the tests of a module have made guardtrail write, no secret of theirs is in it (`tests/canary.py`)."""
    heard = canary.CANARIES[-1]
    heard.running = True
    yield
    leaks = heard.search()
    heard.running = False
    assert not leaks, "secrets have leaked:\n" + "\n".join(map(str, leaks[:20]))


@pytest.fixture
def secret() -> Callable[..., None]:
    """`secret(text)`: it must not be seen in anything that is written from now on."""
    return canary.secret


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Where a test may have made guardtrail write."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None:
        canary.CANARIES[-1].folders[folder] = None


@pytest.fixture(scope="session")
def records_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests' own `.guardtrail` directories lie; each is made by the guard that writes to it."""
    return tmp_path_factory.mktemp("records")


@pytest.fixture(autouse=True)
def surroundings(records_root: Path) -> Iterator[None]:
    """No test writes into the checkout, meets another's records, or follows the developer's OTEL_* and GUARDTRAIL_* variables."""
    before = {name: os.environ.pop(name) for name in _foreign()}
    folder = records_root / f"{next(_numbers)}"
    os.environ["GUARDTRAIL_DIR"] = str(folder)
    canary.CANARIES[-1].folders[folder] = None
    yield
    for name in _foreign():
        del os.environ[name]
    os.environ.update(before)


def _foreign() -> list[str]:
    ours = ("GUARDTRAIL_CORPORA", "GUARDTRAIL_DEMO_SERVERS")  # said to the tests, not to the guard
    return [name for name in os.environ if name.startswith(("OTEL_", "GUARDTRAIL_")) and name not in ours]


_CORPORA = Path(os.environ.get("GUARDTRAIL_CORPORA") or ROOT.parent / "shared" / "corpora")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The recorded attacks and published vectors. They are not part of the repository: GUARDTRAIL_CORPORA names their folder."""
    if not _CORPORA.is_dir():
        pytest.skip("the corpora are not here: GUARDTRAIL_CORPORA names their folder (default: shared/corpora beside the checkout)")
    return _CORPORA
