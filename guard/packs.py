"""The policy packs that come with guardtrail: `baseline`, `git-maintainer`, `coding-agent`, and ten of rules over the chain of calls (see `policies/`).

They are read from the package (`guard/_packs`), or in a checkout from the folder `policies/` beside `guard/`; by path from this
file, so that a `policies/` in the working directory or on `sys.path` cannot take their place.
"""

from __future__ import annotations

from pathlib import Path

from guard.errors import ConfigError
from guard.suggest import did_you_mean

__all__ = ["pack_path", "packs"]

_CASES = ".cases.yaml"


def packs() -> list[str]:
    """The names of the packs, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yaml") if not file.name.endswith(_CASES))


def pack_path(name: str) -> Path:
    """Where the pack `name` lies. Raises ConfigError where there is none of that name."""
    known = packs()
    if name not in known:
        hint = did_you_mean(name, known) or (f"; there are {', '.join(f'`{each}`' for each in known)}" if known else "")
        raise ConfigError(f"there is no policy pack `{name}`{hint}")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    here = Path(__file__).resolve().parent
    packaged = here / "_packs"
    return packaged if packaged.is_dir() else here.parent / "policies"
