"""What was taken back, shared: the index in the state store, and what feeds it. Nothing of it is loaded by `import guard`.

| part         | what it is                                                                                   |
|--------------|----------------------------------------------------------------------------------------------|
| `index`      | entries as data, and the look-up                                                             |
| `store`      | `StoreRevocations`: the index in the shared store (implements `guard.ports.Revocations`)      |
| `several`    | `AnyRevocations`: a list of lists                                                            |
| `inbox`      | `Inbox`: security events, once each, into the index and the signals; `Transmitter`            |
| `poll`       | `Poller`: fetches events (RFC 8936)                                                          |
| `introspect` | `Introspection`: asks the issuer (RFC 7662); `take_back` tells it (RFC 7009)                 |
| `statuses`   | `StatusLists`: token status lists                                                            |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.identity.revoked.inbox import Inbox, Receipt, Transmitter
    from guard.identity.revoked.introspect import Introspection, basic, take_back
    from guard.identity.revoked.poll import Poller
    from guard.identity.revoked.several import AnyRevocations
    from guard.identity.revoked.statuses import StatusLists
    from guard.identity.revoked.store import StoreRevocations

__all__ = [
    "AnyRevocations", "Inbox", "Introspection", "Poller", "Receipt", "StatusLists", "StoreRevocations", "Transmitter", "basic", "take_back",
]  # fmt: skip

_HOMES = {
    "AnyRevocations": "several",
    "Inbox": "inbox",
    "Introspection": "introspect",
    "Poller": "poll",
    "Receipt": "inbox",
    "StatusLists": "statuses",
    "StoreRevocations": "store",
    "Transmitter": "inbox",
    "basic": "introspect",
    "take_back": "introspect",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'guard.identity.revoked' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"guard.identity.revoked.{_HOMES[name]}"), name)
