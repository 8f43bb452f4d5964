"""The policy: text in, data out. `Policy.from_text` reads and lints; `check_layers` puts several policies together."""

from guard.policy.load import CasesFile, Policy, cases_from_text, check_layers

__all__ = ["CasesFile", "Policy", "cases_from_text", "check_layers"]
