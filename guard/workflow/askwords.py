"""The words by which a prompt is understood: tables and phrases, no code. Plain and few; a policy adds its users' own (`words`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["BREAKS", "DELEGATED", "GAP", "NEGATIONS", "PAIRS", "REFERS", "SENT_SUM", "SEVERAL", "WORDS"]

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read", "look", "find", "search", "show", "list", "check", "view", "summarize", "summarise", "get", "see", "tell"),
    "fetch": ("fetch", "open", "visit", "download", "browse", "crawl", "look up"),
    "write": (
        "write", "create", "add", "make", "save", "append", "update", "edit", "change", "set", "mark", "rename", "move", "draft", "note",
        "insert", "modify", "adjust", "fill", "record", "schedule", "reschedule", "put", "store", "log", "register", "correct", "complete",
    ),
    "send": ("send", "mail", "email", "e-mail", "reply", "respond", "answer", "forward", "message", "notify", "inform", "invite", "post", "write to", "ping", "contact", "remind", "submit"),
    "share": ("share", "grant", "give access", "publish", "invite"),
    "pay": ("pay", "transfer", "wire", "refund", "settle", "reimburse", "remit", "repay", "send money", "payment", "paid", "donate", "compensate"),
    "buy": ("buy", "purchase", "order", "book", "reserve", "rent", "subscribe"),
    "delete": ("delete", "remove", "erase", "cancel", "clear", "discard", "trash", "drop", "unsubscribe", "wipe", "purge", "throw away"),
    "execute": ("execute", "run", "start", "launch", "deploy", "install", "build", "compile", "test", "restart"),
    "admin": ("admin", "administer", "configure", "enable", "disable", "reset", "promote", "revoke", "rotate", "set up", "change password"),
    "approve": ("approve", "confirm", "authorize", "authorise", "accept", "sign off", "release", "clear"),
}  # fmt: skip

# A plain verb says it together with what it is done to: `make a reservation`, `send them the difference`, `let Bob know`.
_MONEY: Final = (
    "make set schedule create initiate arrange update adjust change modify increase reduce send issue submit process give return move"
)
_SUMS: Final = "payment transaction transfer refund deposit money cash rent fee difference debit euro eur dollar usd pound gbp franc chf"
PAIRS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "send": (("let keep", "know informed posted updated"), ("write draft compose leave drop", "greeting wish invitation card line")),
    "share": (("give grant provide", "access permission right"), ("add invite", "user member channel group team participant collaborator")),
    "pay": ((_MONEY, _SUMS),),
    "buy": (("make place arrange get set need put", "reservation booking order purchase subscription"),),
    "delete": (("get", "rid"),),
    "admin": (
        ("change update set renew", "password passphrase pin setting permission role credential"),
        ("add remove invite", "user member channel group team role"),
    ),
}
GAP: Final = 5
BREAKS: Final = frozenset({"of", "about", "from", "for", "that", "which", "who", "and", "or", "if", "me", "us"})
"""Behind these the noun is somebody else's: `send a list of my payments`, `let me know`."""
SENT_SUM = re.compile(r"\b(?:send|give|move|return|forward)(?:s|ing)?\b[^.!?\n]{0,40}?[€$£¥][ ]?[0-9]")

NEGATIONS: Final = frozenset(
    [
        "not",
        "never",
        "no",
        "without",
        "don't",
        "dont",
        "don’t",
        "doesn't",
        "doesn’t",
        "won't",
        "won’t",
        "cannot",
        "can't",
        "can’t",
        "avoid",
        "instead",
        "mustn't",
        "shouldn't",
    ]
)
DELEGATED = re.compile(
    r"\b(?:"
    r"do (?:what|whatever|everything|anything|as|all)\b[^.!?\n]{0,60}\b(?:says?|said|tells?|told|asks?|asked|wants?|suggests?|requests?|requires?|describes?|lists?)"
    r"|follow(?:ing)? (?:\w+ ){0,4}(?:instructions?|steps?|orders?|directions?|procedure)"
    r"|(?:as|the way) (?:it is |is |are )?(?:described|instructed|specified|stated|requested|outlined|explained|listed|asked|told) (?:in|by|there)"
    r"|(?:actions?|tasks?|steps?|todos?|things?|instructions?|requests?) (?:that (?:are|is) |which (?:are|is) )?(?:specified|described|listed|mentioned|given|requested|outlined|contained|written|assigned) (?:in|by)"
    r"|(?:do|perform|execute|complete|carry out|handle|finish|take care of|work through) (?:\w+ ){0,3}(?:actions?|tasks?|todos?|to-dos?|steps?|instructions?|requests?) (?:\w+ ){0,3}(?:in|from|on|of)\b"
    r"|accordingly\b"
    r")",
    re.IGNORECASE,
)


REFERS = re.compile(
    r"\b(?:"
    r"(?:mentioned|listed|named|given|provided|specified|stated|described|written|contained|found|included|shown|posted|noted|set out) (?:in|on|by|at|under|there|below)"
    r"|based on|according to|as per|in line with"
    r"|(?:pay|settle|process|handle|book|order|clear)(?:ing)? (?:off )?(?:the|this|that|these|those|my|our|his|her|their|all|every|any|attached|new|latest|last|next|open|due)\b[^.!?\n]{0,30}?\b(?:bills?|invoices?|statements?|reminders?|fines?|tickets?|letters?|notices?)"
    r"|(?:addresses|address|accounts?|iban|numbers?|urls?|links?|details|recipients?|payees?|names?|contacts?|people|persons?|everyone|everybody|attendees|participants) (?:\w+ ){0,3}(?:from|in|on) (?:the|that|this|these|those|my|our|his|her|their|its)"
    r"|accordingly"
    r")\b",
    re.IGNORECASE,
)
"""Words by which a prompt leaves a value to something else: `each person mentioned in the minutes`, `pay the bill`, `the address on her site`."""


SEVERAL = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|both|each|every|all|several|multiple|many|various|few|couple|pair|twice|thrice"
    r"|(?:[2-9]|[1-9][0-9])(?: ?x\b| times\b| (?:\w+ ){0,2}?(?!hours|minutes|days|weeks|months|years|percent|euros|dollars|pounds|stars|people|persons|guests|adults|nights)[a-z]{2,}s\b))",
)
"""More than one of something: number words and digits before a plural that is no measure."""
