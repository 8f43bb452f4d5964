"""A user's module, named on the command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

from guard.cli.output import CannotAnswer, WrongUsage
from guard.suggest import did_you_mean

__all__ = ["attribute", "load_module"]


def load_module(name: str) -> object:
    """Import as a script in the working directory would; what it prints is no result of ours. Raises WrongUsage, CannotAnswer."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = did_you_mean(name, sorted(path.stem for path in Path.cwd().glob("*.py")))
            raise WrongUsage(f"there is no module `{name}` here ({here}){near}") from None
        raise CannotAnswer(f"{name} needs the module `{error.name}`, which is not installed here") from None
    except (Exception, SystemExit) as error:
        raise CannotAnswer(f"{name} raised {type(error).__name__} while it was imported; GUARDTRAIL_DEBUG=1 shows where") from error


def attribute(module: object, module_name: str, name: str) -> object:
    """`name`, dotted, in it. Raises WrongUsage with what there is."""
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [each for each, held in vars(module).items() if isinstance(held, list | tuple | dict) and not each.startswith("_")]
            near = did_you_mean(name, names) or (f"; it has {', '.join(f'`{each}`' for each in names[:5])}" if names else "")
            raise WrongUsage(f"{module_name} has no `{name}`{near}")
        value = getattr(value, part)
    return value
