"""`tests/canary.py` can fail: a secret that leaks on purpose is found, in each channel and in each form; and nothing is found where nothing leaks."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

from guard import Denied, LocalIssuer
from guard.errors import GuardError, TokenRefused
from guard.identity.client import Client
from guard.identity.holder import HolderKey
from guard.model import Decision, Finding
from guard.reasons import ReasonCode
from guard.record import AuditFile, ListSink, LogSink
from guard.record.tracer import OwnProvider
from tests import canary
from tests.lending.world import Desk
from tests.record.making import decision

ISSUER = LocalIssuer("canaries")


def minted() -> str:
    return ISSUER.mint(origin="alice", actor="support", intent="i")


def in_a_file(text: str, folder: Path) -> None:
    sink = AuditFile(folder / "log")
    sink.decision(decision(fix=text))
    sink.close()
    canary.CANARIES[-1].folders[folder] = None


def in_a_record(text: str, folder: Path) -> None:
    ListSink().decision(decision(fix=text))


def in_a_span(text: str, folder: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    provider.get_tracer("x").start_span("a", attributes={"a": text}).end()


def in_a_span_of_our_own(text: str, folder: Path) -> None:
    provider = OwnProvider(SimpleSpanProcessor(InMemorySpanExporter()), at_exit=False)
    span = provider.get_tracer("x").start_span("a")
    span.add_event("b", {"c": text})
    span.end()


def in_a_log(text: str, folder: Path) -> None:
    logging.getLogger("guardtrail.x").warning("it was %s", text)


def in_what_a_log_record_has_besides(text: str, folder: Path) -> None:
    logging.getLogger("anybody").warning("it was", extra={"what": text})


def in_structlog(text: str, folder: Path) -> None:
    log = LogSink(io.StringIO())
    said = Finding("rules", "forbid", ReasonCode.RULE_LIMIT, text=text)
    log.decision(decision(verdict="deny", code="rule.limit", findings=(said,)))
    log.flush(10)


def in_an_exception(text: str, folder: Path) -> None:
    GuardError(f"it was {text}")


def in_a_denial(text: str, folder: Path) -> None:
    finding = Finding("token", "forbid", ReasonCode.TOKEN_REVOKED, text="x", fix=text)
    Denied(Decision("", "deny", "enforce", ReasonCode.TOKEN_REVOKED, (finding,), text, (), "", 0, "", "", ""))


def in_what_an_exception_hangs_on(text: str, folder: Path) -> None:
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise KeyError("x") from error
    except KeyError:
        TokenRefused(ReasonCode.TOKEN_MALFORMED)


def in_a_note(text: str, folder: Path) -> None:
    GuardError("x").add_note(text)


def in_a_command(text: str, folder: Path) -> None:
    app = typer.Typer()
    app.command()(lambda: print(text))
    CliRunner().invoke(app, [])


def in_a_process(text: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write(sys.argv[1])", text], capture_output=True, check=True)


CHANNELS: dict[Callable[[str, Path], None], str] = {
    in_a_file: "file", in_a_record: "record", in_a_span: "span", in_a_span_of_our_own: "span", in_a_log: "log",
    in_what_a_log_record_has_besides: "log", in_structlog: "log", in_an_exception: "exception", in_a_denial: "exception",
    in_what_an_exception_hangs_on: "exception", in_a_note: "exception", in_a_command: "cli", in_a_process: "cli",
}  # fmt: skip


@pytest.mark.parametrize(("leak", "channel"), CHANNELS.items(), ids=lambda each: getattr(each, "__name__", None))
def test_a_leak_in_each_channel(leak: Callable[[str, Path], None], channel: str, tmp_path: Path) -> None:
    with canary.apart() as heard:
        leak(minted(), tmp_path)
        found = heard.search()
        assert channel in {each.channel for each in found} and {each.what for each in found} == {"a minted token"}
        assert heard.search() == [], "and it is forgotten"
        minted()
        leak("nothing that anybody must not see, and longer than most", tmp_path)
        assert heard.search() == []


def _pem(key: LocalIssuer) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _jwk(key: LocalIssuer) -> str:
    value = key._private.private_numbers().private_value
    return json.dumps({"d": base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")})


FORMS: dict[str, Callable[[str], str]] = {
    "the whole token": lambda token: token,
    "its signature": lambda token: token.rpartition(".")[2],
    "a part of its signature": lambda token: f"...{token[-60:-20]}...",
    "base64 of it": lambda token: base64.b64encode(token.encode()).decode(),
    "base64 of Bearer and it": lambda token: base64.b64encode(f"Bearer {token}".encode()).decode(),
    "base64url of user and it": lambda token: base64.urlsafe_b64encode(f"ab:{token}".encode()).decode(),
    "hex of it": lambda token: token.encode().hex(),
    "HEX OF IT": lambda token: token.encode().hex().upper(),
    "hex of the signature's bytes": lambda token: base64.urlsafe_b64decode(token.rpartition(".")[2] + "==").hex(),
    "base64 of the signature's bytes": lambda token: base64.b64encode(base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")).decode(),
    "in JSON in JSON": lambda token: json.dumps(json.dumps({"a": token})),
    "in a URL": lambda token: f"https://a.example/?token={token}&x",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", range(0, 14, 3))
def test_forms(form: str, before: int) -> None:
    with canary.apart() as heard:
        GuardError("x" * before + FORMS[form](minted()))
        assert {each.channel for each in heard.search()} == {"exception"}


@pytest.mark.parametrize("shown", [_pem, _jwk])
def test_keys(shown: Callable[[LocalIssuer], str]) -> None:
    with canary.apart() as heard:
        issuer = LocalIssuer("another")
        GuardError(shown(issuer))
        assert {each.what for each in heard.search()} == {"an issuer's key"}


def test_what_is_heard_of() -> None:
    """Each kind of secret is one."""
    with canary.apart() as heard:
        key, other = HolderKey.generate(), HolderKey.generate("Ed25519")
        bound = ISSUER.mint(origin="alice", actor="support", intent=None, tools=["t"], key=key.public, depth=1)
        texts = [bound, key.prove(bound, "t", {}), key.attenuate(bound, actor="b", key=other)]
        Client("a", secret="0f1e2d3c4b5a69788796a5b4c3d2e1f0")
        texts.append(minted())
        texts.append("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
        desk = Desk()
        with desk.task():
            desk.guard.tool(lambda to: texts.append(desk.guard.credential().reveal()), name="pay")("bob")
        canary.secret("the number of the vault is 4711-0815", "marked by a test")
        texts.append("the number of the vault is 4711-0815")
        for text in texts:
            GuardError(text)
        kinds = {each.what for each in heard.search()}
    assert kinds == {"a minted token", "a proof", "a chain", "a client's secret", "a lent credential", "marked by a test"}


def test_the_header_and_claims_of_a_token_are_none() -> None:
    with canary.apart() as heard:
        GuardError(minted().rpartition(".")[0])
        assert heard.search() == []


def test_what_a_result_held_is_found_in_no_record(secret: Callable[..., None]) -> None:
    """Through the guard, and the module's own search looks for it."""
    secret("the combination of the safe is 38-14-92")
    desk = Desk()
    with desk.task():
        got = desk.guard.tool(lambda repo: "the combination of the safe is 38-14-92", name="look")("acme/web")
    assert got.endswith("92")


def test_commands_that_print_tokens_are_named() -> None:
    with canary.apart() as heard:
        token = minted()
        done = subprocess.CompletedProcess(["guardtrail", "token", "mint"], 0, token, "")
        canary._said(done.args, done.stdout, done.stderr)
        assert heard.search() == []
        canary._said(["guardtrail", "token", "inspect"], minted(), "")
        assert [each.channel for each in heard.search()] == ["cli"]
