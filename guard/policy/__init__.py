"""The policy: text in, data out. `Policy.from_text` reads and lints; `check_layers` puts several policies together.

The reader is loaded when the first policy is read: whoever imports guard for its types does not pay for a YAML parser and a linter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.policy.load import CasesFile, Policy, cases_from_text, check_layers

__all__ = ["CasesFile", "Policy", "cases_from_text", "check_layers"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from guard.policy import load

        return getattr(load, name)
    raise AttributeError(f"module 'guard.policy' has no attribute {name!r}")
