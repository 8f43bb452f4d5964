"""Typed entities in text. Linear scanners: no text makes them slow, none makes them raise.

| kind    | found                                                   | value                                     |
|---------|---------------------------------------------------------|-------------------------------------------|
| url     | `scheme://...`; `www.`, `//host` and hosts with a path  | RFC 3986 normal form; as written if none  |
| host    | of a URL; a bare name under a usual top-level domain    | lower case, A-labels                      |
| email   | an address, also `Name <address>` and `mailto:`         | domain in lower case                      |
| iban    | letters and digits as an IBAN has them, blanks allowed  | no blanks, upper case                     |
| account | 8 to 34 digits                                          | as they are                               |
| path    | a word with a slash or a file's ending                  | by its letters                            |
| phone   | 7 to 15 digits with `+`, blanks, brackets or a zero     | `+` and digits                            |
| amount  | a number, with or without currency                      | shortest decimal text                     |
| date    | 2027-03-01, with a time too; March 1st, 2027            | ISO 8601                                  |
| handle  | `@name`                                                 | the name                                  |
| repo    | owner/repo, alone or in a forge's URL                   | owner/repo                                |
| id      | a word with a digit in it, a UUID, `#12`                | as it is                                  |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final, NamedTuple

from guard.constraints import hosts, paths
from guard.constraints.types import ValueRefused, decimal_text, normalise

__all__ = ["CLOSING", "KINDS", "OPENING", "Entity", "amount", "bare_host", "entities", "file_path", "iban", "named_address", "phone"]

KINDS: Final = ("url", "host", "email", "iban", "account", "path", "phone", "amount", "date", "handle", "repo", "id")
_MOST_WORD: Final = 4096

OPENING: Final = "\"'`([{<*_“‘«‹„#"
CLOSING: Final = "\"'`)]}>*_.,;:!?”’»›…"
_FORGES: Final = frozenset({"github.com", "gitlab.com", "bitbucket.org", "codeberg.org"})
_TLDS: Final = frozenset({
    "com", "net", "org", "edu", "gov", "mil", "int", "info", "biz", "name", "pro", "app", "dev", "cloud", "online", "site", "shop",
    "store", "tech", "xyz", "example", "test", "invalid", "local", "localhost", "internal", "onion", "top", "club", "live", "news",
    "blog", "email", "page", "link", "click", "work", "world", "agency", "digital", "media", "network", "systems", "solutions",
    "group", "team", "space", "website",
})  # fmt: skip
_NOT_TLDS: Final = frozenset({
    "py", "sh", "md", "js", "ts", "rs", "cs", "rb", "pl", "gz", "xz", "db", "so", "ps", "vb", "hs", "ml", "kt", "cc", "hh", "mk",
    "py7", "mp", "am", "pm", "st", "ai",
})  # fmt: skip
"""Two letters that are more often a file's ending than a country."""

_SCHEME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
_URL_REST = re.compile(r"[^\s<>\"`{}|\\^\x00-\x1f]{1,8192}")
_LOCAL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+/=?^_`{|}~.-")
_DOMAIN = re.compile(r"[^\W_](?:[\w.-]{0,252}[^\W_])?")
_HANDLE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
_HOST = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}\.?(?::[0-9]{1,5})?")
_GROUPS = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \u00a0][A-Z0-9]{4}){2,7}(?:[ \u00a0][A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII)
_COMPACT = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{6,30}", re.ASCII)
_PHONE = re.compile(r"(?<![\w+])\+?\(?[0-9](?:[ ().\-/]{0,2}[0-9]){6,14}(?!\w)", re.ASCII)
_ISO = re.compile(
    r"(?<![\w-])([0-9]{4}-[0-9]{2}-[0-9]{2})([T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?(?!\w)"
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DAY = r"([0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = re.compile(r"[0-9]{4}(?![\w])", re.ASCII)
_WRITTEN = re.compile(rf"\b(?:{_MONTH} {_DAY},? ([0-9]{{4}})|{_DAY} (?:of )?{_MONTH},? ([0-9]{{4}}))$", re.IGNORECASE | re.ASCII)
_LONGEST_DATE: Final = 28
_DIGIT = re.compile(r"\d")
_AMOUNT = re.compile(r"[-+]?(?:[0-9]{1,3}(?:[,'’][0-9]{3})+(?:\.[0-9]{1,12})?|[0-9]{1,30}(?:\.[0-9]{1,12})?)", re.ASCII)
_COMMA = re.compile(r"[0-9]{1,18},[0-9]{1,2}", re.ASCII)
_CURRENCY: Final = "€$£¥₹"
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:/-]{0,126}[A-Za-z0-9])?", re.ASCII)
_ENDING = re.compile(r"[^/\\\x00-\x1f]{1,255}\.[A-Za-z][A-Za-z0-9]{0,4}")
_REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9_.-]{1,100}", re.ASCII)
_PARTS = re.compile(r"[,;|=()\[\]{}<>\"'`*“”‘’]+|:(?![/\\])")


class Entity(NamedTuple):
    """Something typed that stands in a text, in its normal form."""

    kind: str
    value: str


def entities(text: str, limit: int = 500) -> list[Entity]:
    """The different entities of `text`, at most `limit`, always the same ones in the same order. Never raises."""
    found: dict[Entity, None] = {}
    numbers = (_accounts, _dates, _phones) if _DIGIT.search(text) else ()
    for scan in (_urls, _emails, *numbers, _words):
        try:
            for entity in scan(text):
                found.setdefault(entity)
                if len(found) >= limit:
                    return list(found)
        except (ValueError, IndexError, OverflowError):  # one scanner stumbled: the others still speak
            continue
    return list(found)


# --- addresses


def _urls(text: str) -> Iterator[Entity]:
    at = text.find("://")
    while at >= 0:
        start = _scheme(text, at)
        match = _URL_REST.match(text, at + 3) if start < at else None
        if match is None:
            at = text.find("://", at + 3)
            continue
        whole = _balanced(text[start : match.end()])
        yield from _url(whole)
        inner, tries = whole.find("://", at - start + 3), 0
        while inner >= 0 and tries < 4:  # a link that carries another one
            yield from _url(whole[_scheme(whole, inner) :])
            inner, tries = whole.find("://", inner + 3), tries + 1
        at = text.find("://", max(start + len(whole), at + 3))


def _scheme(text: str, at: int) -> int:
    """Where the scheme before `at` begins, `at` where there is none."""
    start, low = at, max(0, at - 31)
    while start > low and text[start - 1] in _SCHEME:
        start -= 1
    while start < at and not text[start].isalpha():
        start += 1
    return start


def _balanced(url: str) -> str:
    """Up to the first bracket that closes what the URL did not open, without the sentence's own punctuation."""
    depth = 0
    for at, char in enumerate(url):
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
            if depth < 0:
                url = url[:at]
                break
    return url.rstrip("\"'*.,;:!?”’»…")


def _url(text: str) -> Iterator[Entity]:
    try:
        parts = hosts.split_url(text)
    except ValueError:
        if len(text) > 8:
            yield Entity("url", text[:1024])  # nobody can follow it, and a body that carries it still carries a link
        return
    yield Entity("url", parts.text)
    yield Entity("host", parts.host)
    if parts.host.removeprefix("www.") in _FORGES:
        steps = [step for step in parts.path.split("/") if step]
        if len(steps) >= 2 and _REPO.fullmatch(name := f"{steps[0]}/{steps[1].removesuffix('.git')}"):
            yield Entity("repo", name)


def _emails(text: str) -> Iterator[Entity]:
    at = text.find("@")
    while at >= 0:
        start, low = at, max(0, at - 64)
        while start > low and text[start - 1] in _LOCAL:
            start -= 1
        local = text[start:at].lstrip(".'/`{|*=?&")
        domain = _DOMAIN.match(text, at + 1)
        if local and domain is not None:
            try:
                yield Entity("email", hosts.email(f"{local}@{domain.group()}"))
            except ValueError:
                pass
        elif not local and (start == 0 or not text[start - 1].isalnum()):
            handle = _HANDLE.match(text, at + 1)
            if handle is not None:
                yield Entity("handle", handle.group())
        at = text.find("@", at + 1)


def named_address(text: str) -> tuple[str, str] | None:
    """The name and the address of `Name <address>`, where the text is nothing else."""
    text = text.strip()
    if len(text) > 400 or not text.endswith(">"):
        return None
    name, opened, address = text[:-1].rpartition("<")
    name = name.strip().strip("\"'").strip()
    if not opened or not name or "<" in name or ">" in name:
        return None
    try:
        return name, hosts.email(address.strip().removeprefix("mailto:"))
    except ValueError:
        return None


def bare_host(word: str) -> str | None:
    """The host that `word` is, where a reader would take it for one; None for a file's name."""
    if not 4 <= len(word) <= 253 or "." not in word or _HOST.fullmatch(word) is None:
        return None
    name = word.rpartition(":")[0] or word
    try:
        host = hosts.host(name)
    except ValueError:
        return None
    last = host.rpartition(".")[2]
    usual = last in _TLDS or (len(last) == 2 and last not in _NOT_TLDS) or last.startswith("xn--") or host.startswith("www.")
    return host if usual else None


# --- numbers


def _accounts(text: str) -> Iterator[Entity]:
    for match in _GROUPS.finditer(text):
        groups = match.group().replace("\u00a0", " ").split(" ")
        ways = ["".join(groups[:end]) for end in range(3, len(groups) + 1)]
        right = [way for way in ways if _checks(way)]  # where a word follows that looks like one more group
        for way in right or (ways[-2:] if len(groups[-1]) < 4 else ways[-1:]):
            yield Entity("iban", way)


def iban(word: str) -> str | None:
    """The account that `word` is: an IBAN by its form (or, in other spellings, by its checksum), else None."""
    if not 10 <= len(word) <= 48:
        return None
    compact = word.replace(" ", "").replace("\u00a0", "")
    if _COMPACT.fullmatch(compact):
        return compact
    compact = compact.replace("-", "").replace(".", "").upper()
    return compact if _COMPACT.fullmatch(compact) and _checks(compact) else None


def _checks(compact: str) -> bool:
    """ISO 13616: the number formed of its letters leaves 1."""
    if not _COMPACT.fullmatch(compact):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def phone(text: str) -> str | None:
    """The phone number that `text` is, as `+` and digits or digits alone."""
    if not 7 <= len(text) <= 40 or _PHONE.fullmatch(text) is None or _ISO.match(text):
        return None
    digits = "".join(char for char in text if char.isdigit())
    if text.isdigit() and not text.startswith("0"):
        return None
    return f"+{digits}" if text.startswith("+") else f"+{digits[2:]}" if digits.startswith("00") else digits


def _phones(text: str) -> Iterator[Entity]:
    for match in _PHONE.finditer(text):
        number = phone(match.group())
        if number is not None:
            yield Entity("phone", number)


def amount(word: str) -> str | None:
    """The number that `word` is, currency aside: `$1,050.00` -> `1050`."""
    word = word.strip(_CURRENCY)
    if not word or len(word) > 40:
        return None
    if _AMOUNT.fullmatch(word):
        plain = re.sub("[,'’+]", "", word)
    elif _COMMA.fullmatch(word):
        plain = word.replace(",", ".")
    else:
        return None
    try:
        return decimal_text(Decimal(plain))
    except (ValueRefused, ArithmeticError):
        return None


def _dates(text: str) -> Iterator[Entity]:
    for match in _ISO.finditer(text):
        for word in (match[1], match[0]):
            try:
                yield Entity("date", str(normalise("date", word)))
            except ValueRefused:
                break
    for year_at in _YEAR.finditer(text):
        said = _WRITTEN.search(text[max(0, year_at.end() - _LONGEST_DATE) : year_at.end()])
        if said is None:
            continue
        month, day, year = (said[1], said[2], said[3]) if said[1] else (said[5], said[4], said[6])
        try:
            yield Entity("date", str(normalise("date", f"{year}-{_MONTHS.index(month.lower()) + 1:02}-{int(day):02}")))
        except ValueRefused:
            continue


# --- words


def file_path(word: str) -> str | None:
    """The path that `word` is by its letters: it has a slash, or a file's ending."""
    if not 3 <= len(word) <= 1024 or "://" in word or not ("/" in word or ("." in word and _ENDING.fullmatch(word))):
        return None
    try:
        return paths.lexical(word)
    except ValueError:
        return None


def _words(text: str) -> Iterator[Entity]:
    known: set[str] = set()
    for match in re.finditer(r"\S+", text):
        raw = match.group()
        if len(raw) > _MOST_WORD or raw in known:
            continue
        known.add(raw)
        word = raw.lstrip(OPENING).rstrip(CLOSING)
        yield from _word(word, marked="#" in raw[: len(raw) - len(raw.lstrip(OPENING))])
        parts = _PARTS.split(word)
        if len(parts) > 1 and amount(word) is None:
            for part in parts:
                yield from _word(part.lstrip(OPENING).rstrip(CLOSING))


def _word(word: str, *, marked: bool = False) -> Iterator[Entity]:
    digits = _DIGIT.search(word) is not None
    if not word or "://" in word or "@" in word or not (digits or "." in word or "/" in word):
        return
    host = bare_host(word)
    if host is not None:
        if host.startswith("www."):
            yield from _url(f"https://{host}/")
            yield from _url(f"http://{host}/")
        yield Entity("host", host)
    elif "/" in word:
        yield from _slashed(word)
    elif (path := file_path(word)) is not None:
        yield Entity("path", path)
    if not digits:
        return
    account = iban(word)
    if account is not None:
        yield Entity("iban", account)
    elif word.isascii() and word.isdigit() and 8 <= len(word) <= 34:
        yield Entity("account", word)
    number = amount(word)
    if number is not None:
        yield Entity("amount", number)
    if _ID.fullmatch(word):
        yield Entity("id", word)
        if marked:
            yield Entity("id", f"#{word}")


def _slashed(word: str) -> Iterator[Entity]:
    relative = word.startswith("//")  # `<a href="//evil.example/x">`: a browser follows it, by the scheme of the page
    head, _, rest = (word[2:] if relative else word).partition("/")
    if bare_host(head) is not None:
        for scheme in ("https", "http"):
            yield from _url(f"{scheme}://{head}/{rest}")
        return
    if _REPO.fullmatch(word):
        yield Entity("repo", word)
    path = file_path(word)
    if path is not None:
        yield Entity("path", path)
