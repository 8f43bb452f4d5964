"""The parts that need no server: what is read, what is sealed, what a header may say, what goes on in `_meta`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ConfigError
from guard.gateway.carry import holds, onward, read_meta
from guard.gateway.headers import matching, param_headers, repeated, request_headers
from guard.gateway.links import child_environment
from guard.gateway.pages import PAGE, page
from guard.gateway.rpc import Refused, dumps, strict
from guard.gateway.seals import Seals
from guard.gateway.setup import read_servers, spec_of
from guard.gateway.wire import Wire

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
HOP = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImhvcCJ9.e30.c2lnbmF0dXJl"


@given(JSON)
def test_what_is_written_is_read_again(value: Any) -> None:
    line = dumps(value)
    assert strict(line) == value and b"\n" not in line


@pytest.mark.parametrize(
    "raw", [b'{"a":1,"a":1}', b'{"x":{"a":1,"a":2}}', b"NaN", b"[Infinity]", b"\xff", b"{", b"", b"[" * 200_000, b"1" * 5_000]
)
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(ValueError):
        strict(raw)


@given(JSON, st.sampled_from([TOKEN, f"{TOKEN}~{HOP}"]), st.data())
def test_wherever_the_token_stands_it_is_found_and_goes_no_further(value: Any, token: str, data: st.DataObject) -> None:
    part = data.draw(st.sampled_from([token, *token.split("~"), f"Bearer {token}", f"x{HOP if '~' in token else TOKEN}y"]))
    hidden = data.draw(st.sampled_from([{"a": [part]}, {part: 1}, {"a": {"b": [{"c": part}]}}, [part, value], {"v": value, "t": part}]))
    assert holds(hidden, token) and holds({"args": hidden}, token)
    assert not holds(value, token) or TOKEN in json.dumps(value)
    gone = json.dumps(onward({"own": hidden, "kept": 1}, token))
    assert not any(each in gone for each in token.split("~"))
    assert json.loads(gone)["kept"] == 1


def test_what_is_ours_in_meta_and_what_is_of_the_connection() -> None:
    carried = read_meta(
        {
            "_meta": {
                "guardtrail.io/token": "t",
                "guardtrail.io/call_id": "c",
                "progressToken": 3,
                "io.modelcontextprotocol/protocolVersion": "x",
                "a": 1,
            }
        }
    )
    assert (carried.token, carried.call_id, carried.progress) == ("t", "c", 3)
    assert onward(carried.meta, "t" * 20) == {"a": 1}
    for meta in ([], "x", {"guardtrail.io/token": 1}, {"guardtrail.io/token": "x" * (1 << 20)}, {"guardtrail.io/proof": []}):
        with pytest.raises(Refused):
            read_meta({"_meta": meta})
    assert read_meta({"_meta": {"progressToken": True}}).progress is None


def test_seals() -> None:
    seals, about = Seals(), "a" * 64
    sealed = seals.close({"deep": [1]}, about, ["one", "two"])
    assert seals.open(sealed, about, {"one": {}}) == (True, {"deep": [1]})
    assert not seals.open(sealed, "b" * 64, {"one": {}})[0]
    assert not seals.open(sealed, about, {"three": {}})[0]
    assert not Seals().open(sealed, about, {"one": {}})[0]
    for bad in (None, "", "x", sealed[:-4], sealed[4:], sealed + "AAAA", 3, "é"):
        assert not seals.open(bad, about, {"one": {}})[0]
    assert not seals.open(sealed, about, None)[0]


def test_an_old_seal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seals = Seals()
    sealed = seals.close(None, "a", [])
    monkeypatch.setattr("guard.gateway.seals.time", lambda: __import__("time").time() + 601)
    assert not seals.open(sealed, "a", {})[0]


SCHEMA = {
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {
            "type": "object",
            "properties": {"n": {"type": "integer", "x-mcp-header": "N"}, "f": {"type": "number", "x-mcp-header": "F"}},
        },
        "bad": {"type": "string", "x-mcp-header": "a b"},
    }
}


@given(st.text(max_size=30), st.integers(-1000, 1000))
def test_headers_that_repeat_arguments(region: str, number: int) -> None:
    repeats, arguments = repeated(SCHEMA), {"region": region, "deep": {"n": number}}
    sent = {**request_headers("tools/call", {"name": "t"}), **param_headers(repeats, arguments)}
    assert set(sent) == {"mcp-method", "mcp-name", "mcp-param-Region", "mcp-param-N"}
    assert all(value.isascii() and value.isprintable() for value in sent.values())
    headers = {name.lower(): [value] for name, value in sent.items()}
    params = {"name": "t", "arguments": arguments}
    matching("tools/call", params, headers, modern=True, repeats=repeats)
    for name in headers:
        for other in ([], ["x-other"], headers[name] * 2):
            changed = {**headers, name: other}
            if name in ("mcp-method", "mcp-name") and other == headers[name] * 2:
                continue  # twice: `era_of` refuses it before
            with pytest.raises(Refused):
                matching("tools/call", params, changed, modern=True, repeats=repeats)
    with pytest.raises(Refused):  # a header for an argument that is not there
        matching("tools/call", {"name": "t", "arguments": {}}, headers, modern=True, repeats=repeats)


@given(st.integers(0, 350))
def test_pages_hold_everything_once(number: int) -> None:
    rows = [{"name": f"t{i}"} for i in range(number)]
    found: list[Any] = []
    cursor: object = None
    while True:
        one = page("tools", rows, cursor)
        assert len(one["tools"]) <= PAGE
        found += one["tools"]
        cursor = one.get("nextCursor")
        if cursor is None:
            break
        with pytest.raises(Refused):
            page("tools", rows[1:], cursor)
    assert found == rows


@pytest.mark.parametrize("cursor", ["", "x", "0-" + "0" * 16, "-1", "100", 7, "99999-" + "0" * 16])
def test_a_cursor_of_nobody(cursor: object) -> None:
    with pytest.raises(Refused):
        page("tools", [{"name": "a"}] * 300, cursor)


def test_a_childs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDTRAIL_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("PATH", "/bin")
    found = child_environment({"A": "1", "PATH": "/own"})
    assert found["A"] == "1" and found["PATH"] == "/own"
    assert not {"GUARDTRAIL_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(found)


@pytest.mark.parametrize("text", ["", "git", "git=", "=x", "a__b=x", "a/b=x", "_a=x", "git=x 'y", "-=x", "a" * 70 + "=x"])
def test_a_server_that_has_no_name_or_command(text: str) -> None:
    with pytest.raises(ConfigError):
        spec_of(text)


def test_servers_as_they_are_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    assert spec_of("git=mcp-server-git -r 'a b'").command == ("mcp-server-git", "-r", "a b")
    assert spec_of("web=https://x.example/mcp").url == "https://x.example/mcp"
    file = tmp_path / "servers.yaml"
    file.write_text(
        'mcpServers:\n  web: {type: http, url: "https://x.example/mcp", headers: {Authorization: "Bearer ${KEY}"}, lend: true}\n'
    )
    (spec,) = read_servers(file)
    assert spec.headers == {"Authorization": "Bearer secret"} and spec.lend
    for text in (
        "mcpServers: []", "servers: {}", "{", "mcpServers: {a: {}}", "mcpServers: {a: {command: x, url: y}}", "mcpServers: {a: {command: [x]}}",
        "mcpServers: {a: {command: x, sandbox: true}}", 'mcpServers: {a: {command: "${NOT_SET_ANYWHERE}"}}', "mcpServers: {a__b: {command: x}}",
        "mcpServers: {a: {command: x, env: [1]}}", "mcpServers: {a: {url: x, lend: 1}}",
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_servers(file)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["ftp://x", "x", "http://", "https://user:pw@x.example/mcp", "http://x/#f"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError):
        Wire(url)
