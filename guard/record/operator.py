"""What the operator of a gateway should see, as JSON lines on standard error. Names and numbers; no values, and nothing that a client chose.

Standard output is the protocol's where the front is stdio.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog

__all__ = ["operator_log"]


def operator_log() -> Callable[..., None]:
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ]
    logger = structlog.wrap_logger(structlog.WriteLogger(sys.stderr), processors=processors)

    def log(event: str, **about: object) -> None:
        logger.warning(event, **about)

    return log
