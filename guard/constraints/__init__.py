"""Constraints: one closed vocabulary for what a value may be, in tokens and in policies; and binding a call to its tool.

Pure: paths of the machine are resolved by a callable that is handed in.
"""

from guard.constraints.args import compile_args, compile_when
from guard.constraints.binding import Binder, BindError, Shape
from guard.constraints.canonical import canonical
from guard.constraints.constraint import Constraint, ConstraintError
from guard.constraints.reading import parse
from guard.constraints.subsume import subsumes
from guard.constraints.types import TYPES, ValueRefused, normalise

__all__ = [
    "TYPES",
    "BindError",
    "Binder",
    "Constraint",
    "ConstraintError",
    "Shape",
    "ValueRefused",
    "canonical",
    "compile_args",
    "compile_when",
    "normalise",
    "parse",
    "subsumes",
]
