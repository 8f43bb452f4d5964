"""Laws of `command` with forms: what is proven narrower is, over every short command of a small world; and the lexer against a real shell."""

from __future__ import annotations

import itertools
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from guard.constraints import parse, subsumes
from guard.constraints.commands import words_of

WORDS = ("git", "ls", "-a", "-b", "-ab", "--x", "--x=1", "a", "b", "a/c", "/a", "..", "--", "-", "a:b", "*")
WORLD = [" ".join(words) for n in range(1, 5) for words in itertools.product(WORDS, repeat=n) if words[0] in ("git", "ls")]
OPERANDS: list[Any] = ["a", "b", "*", "./", "a*", ["a", "b"], "a/*"]


def some(r: random.Random, of: list[Any], most: int) -> list[Any]:
    return r.sample(of, r.randint(0, min(most, len(of))))


def make_form(r: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"program": r.choice(["git", ["git", "ls"]])}
    if r.random() < 0.7:
        flags = {flag.removesuffix("="): flag for flag in some(r, ["-a", "-b", "-ab", "--x", "-a=", "--x="], 3)}
        made["flags"] = list(flags.values())
    if r.random() < 0.7:
        made["operands"] = some(r, OPERANDS, 2)
        if made["operands"] and r.random() < 0.4:
            made["operands"].append("...")
    return made


def make(r: random.Random) -> dict[str, Any]:
    forms = [make_form(r) for _ in range(r.randint(1, 2))]
    return {"command": forms[0] if len(forms) == 1 and r.random() < 0.5 else forms}


def near(r: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
    """A child near its parent: one thing of it changed."""
    forms = [dict(one) for one in (parent["command"] if isinstance(parent["command"], list) else [parent["command"]])]
    one = r.choice(forms)
    other = make_form(r)
    for key in some(r, ["program", "flags", "operands"], 1):
        one.pop(key, None)
        one |= {key: other[key]} if key in other else {}
    one.setdefault("program", "git")
    return {"command": r.sample(forms, r.randint(1, len(forms)))}


def test_what_is_proven_narrower_is() -> None:
    """Every pair that `subsumes` says yes to, tried on 500 of 60,000 commands."""
    r, proven = random.Random(3), 0
    for _ in range(700):
        raw = make(r)
        parent, child = parse(raw), parse(near(r, raw) if r.random() < 0.8 else make(r))
        if not subsumes(parent, child):
            continue
        proven += 1
        for text in r.sample(WORLD, 500):
            if child.matches(text):
                assert parent.matches(text), (parent.raw, child.raw, text)
    assert proven > 150


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ({"program": "git", "operands": ["push", "agent/*"]}, {"program": "git", "operands": ["push", "agent/x"]}),
        ({"program": "git", "operands": ["./", "..."]}, {"program": "git", "operands": ["./", "./"]}),
        ({"program": "git", "operands": [["push", "pull"], "*"]}, {"program": "git", "operands": ["push", "./"]}),
        ({"program": "git", "flags": ["-a"]}, {"program": "git", "flags": [], "operands": ["x"]}),
        ([{"program": "git"}, {"program": "ls"}], {"program": "ls", "operands": ["x"]}),
        ({"program": ["git", "ls"]}, [{"program": "git"}, {"program": "ls", "flags": []}]),
    ],
)  # fmt: skip
def test_narrower(parent: Any, child: Any) -> None:
    wide, narrow = parse({"command": parent}), parse({"command": child})
    assert subsumes(wide, narrow) and subsumes(wide, wide)
    assert not subsumes(narrow, wide)


# What a shell makes of a word, and what the lexer must not read otherwise.
PIECES = ("a", "-r", "'b c'", '"d"', "\\e", "''", '"f g"', "h'i'", "2>&1", ">/dev/null", "2>/dev/null", ";", "|", "&&", "||")


def test_a_real_shell_takes_them_apart_alike(tmp_path: Path) -> None:
    """Each command the lexer accepts is run by /bin/sh with `show` for its program: the same words, in the same simple commands."""
    show = tmp_path / "show"
    # A file for each process: those of a pipe run at once, and would write into each other's words.
    show.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\037" "$word"; done > {tmp_path}/seen.$$\n')
    show.chmod(0o755)
    r, tried = random.Random(5), 0
    while tried < 60:
        text = "show " + " ".join(r.choice(PIECES) for _ in range(r.randint(1, 5)))
        text = "".join(f"{part} show " if part in (";", "|", "&&", "||") else f"{part} " for part in text.split(" ") if part)
        try:
            told = words_of(text)
        except ValueError:
            continue
        if "||" in text:
            continue  # `show` ends well, so what is after it does not run
        tried += 1
        for seen in tmp_path.glob("seen.*"):
            seen.unlink()
        subprocess.run(["/bin/sh", "-c", text], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=True, timeout=60)
        ran = [tuple(seen.read_text().split("\037")[:-1]) for seen in tmp_path.glob("seen.*")]
        assert sorted(ran) == sorted(tuple(word for word, _ in words[1:]) for words in told), text
