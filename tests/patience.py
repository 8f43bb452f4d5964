"""What a loaded machine must not change: it stands still for longer than a guard, its log and its store wait by default, and then a verdict would be its.

`tests/conftest.py` sets this for the suite, programs that tests start say `patient()` first. A script that is to stay as its readers see it is run by this one:

    python tests/patience.py SCRIPT WORDS...

What deadlines and patience do is tested with ones of the tests' own.
"""

from __future__ import annotations

import runpy
import sys
from datetime import timedelta
from pathlib import Path

__all__ = ["PATIENT", "patient"]

PATIENT = str(Path(__file__).resolve())
"""`[sys.executable, PATIENT, script]`."""


def patient() -> None:
    """From here on, in this process."""
    from guard import Guard
    from guard.record import AuditFile
    from guard.state import SqliteState

    Guard.__init__.__kwdefaults__["deadline"] = AuditFile.__init__.__kwdefaults__["patience"] = timedelta(seconds=5)
    SqliteState.__init__.__kwdefaults__["timeout"] = 20.0


if __name__ == "__main__":
    patient()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
