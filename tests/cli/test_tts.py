"""`guardtrail tts`: its keys, and what stops it from starting. That it serves is shown in tests/server."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.identity.signing import KEPT
from tests.server.ttsworld import SECRET

Run = Callable[..., Any]
CONFIG: dict[str, Any] = {
    "issuer": "http://127.0.0.1:8095", "trust_domain": "acme.example", "keys": "tts-keys", "records": ".guardtrail",
    "issuers": [{"url": "https://iam.acme.example", "audience": "gateway"}], "clients": [{"id": "gateway", "secret": "gateway.secret"}],
}  # fmt: skip


def test_keys_from_the_first_to_the_stolen(cli: Run) -> None:
    made = cli("tts", "keys", "new")
    assert (made.code, made.err) == (0, "")
    assert re.fullmatch(r"made [0-9]{8}-[0-9a-f]{8}: signs now\n", made.out)
    began = time.time()
    second = cli("tts", "keys", "new", "--alg", "Ed25519", "--json").json
    assert second.keys() == {"kid", "alg", "state", "signs_from"}
    assert (second["alg"], second["state"]) == ("Ed25519", "new")
    assert began + 599 <= second["signs_from"] <= time.time() + 600
    third = cli("tts", "keys", "new", "--signs-after", "1h", "--json").json
    assert began + 3599 <= third["signs_from"] <= time.time() + 3600
    listed = cli("tts", "keys", "list", "--json").json["keys"]
    assert sorted(one["state"] for one in listed) == ["new", "new", "signing"]
    assert all(one["published"] is True and one["retired"] is None for one in listed)
    first = next(one["kid"] for one in listed if one["state"] == "signing")
    said = cli("tts", "keys", "retire", first)
    assert (said.code, "only one that can sign now" in said.err) == (3, True)
    assert cli("tts", "keys", "new", "--now").out.endswith("signs now\n")
    found = cli("tts", "keys", "retire", first, "--json").json
    assert found["state"] == "retired"
    assert began + KEPT - 1 <= found["published_until"] <= time.time() + KEPT
    stolen = cli("tts", "keys", "retire", first, "--stolen")
    assert stolen.code == 0
    assert f"guardtrail revoke --key {first}" in stolen.err
    assert cli("tts", "keys", "retire", first, "--stolen", "--json").json == {"kid": first, "state": "stolen", "published_until": None}
    table = cli("tts", "keys", "list")
    assert re.search(rf"{first}.*stolen.*no", table.out)
    assert table.err == "4 keys in tts-keys\n"
    assert '"d"' not in table.out + json.dumps(listed)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["keys", "new", "--alg", "RS256"], 2, "ES256 or Ed25519"),
        (["keys", "new", "--signs-after", "soon"], 2, "`--signs-after` is a time"),
        (["keys", "new", "--dir", "policy.yaml/x"], 3, "cannot be made"),
        (["keys", "list"], 3, "cannot be read"),
        (["keys", "retire", "x"], 3, "cannot be read"),
        (["serve", "--config", "none.yaml"], 3, "cannot be read: no such file"),
        (["serve", "--config", "policy.yaml"], 2, "errors"),
        (["serve", "--config", "tts.yaml"], 3, "guardtrail tts keys new"),
        (["serve"], 2, "--config"),
    ],
    ids=range(9),
)
def test_what_cannot_be_done_is_said(words: list[str], code: int, text: str, cli: Run, desk: Path) -> None:
    (desk / "tts.yaml").write_text(yaml.safe_dump(CONFIG))
    said = cli("tts", *words)
    assert (said.code, text in said.err + said.out) == (code, True), said


def test_every_error_of_the_file_has_its_place(cli: Run, desk: Path) -> None:
    (desk / "tts.yaml").write_text(
        f"issuer: http://tts.acme.example\ntrust_domain: acme.example\nkeyes: k\nclients: [{{id: a, secret: {SECRET}, keys: b}}]\n"
    )
    said = cli("tts", "serve", "--config", "tts.yaml")
    assert said.code == 2
    assert [line.split(" ")[0] for line in said.lines if line.startswith("tts.yaml")] == [
        "tts.yaml:1:1:",
        "tts.yaml:1:1:",
        "tts.yaml:1:1:",
        "tts.yaml:3:1:",
    ]
    assert "did you mean `keys`" in said.out
    assert SECRET not in said.err


def test_where_it_cannot_listen(cli: Run, desk: Path) -> None:
    cli("tts", "keys", "new")
    (desk / "gateway.secret").write_text(SECRET)
    (desk / "gateway.secret").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (desk / "tts.yaml").write_text(yaml.safe_dump({**CONFIG, "issuer": f"http://127.0.0.1:{port}"}))
        said = cli("tts", "serve", "--config", "tts.yaml")
    assert (said.code, f"cannot listen on 127.0.0.1 port {port}" in said.err) == (3, True)


@pytest.mark.parametrize(
    "words", [["tts"], ["tts", "keys"], ["tts", "serve"], ["tts", "keys", "new"], ["tts", "keys", "list"], ["tts", "keys", "retire"]]
)
def test_help_teaches(words: list[str], cli: Run) -> None:
    said = cli(*words, "--help")
    assert said.code == 0
    if len(words) > 1 and words != ["tts", "keys"]:
        assert f"guardtrail {' '.join(words)}" in said.out
        assert "Exit 0" in said.out and "--json" in said.out
