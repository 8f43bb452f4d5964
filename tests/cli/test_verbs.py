"""The verbs as a user meets them: what they print, how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
CALL = '{"tool": "refund", "args": {"order": "A-17", "amount": "20"}}'
OTHER = '{"tool": "refund", "args": {"order": "B-99", "amount": "20"}}'

VERBS = [
    ["init"],
    ["lint"],
    ["test"],
    ["check"],
    ["explain"],
    ["doctor"],
    ["replay"],
    ["token"],
    ["token", "mint"],
    ["token", "inspect"],
    ["audit"],
    ["audit", "verify"],
    ["revoke"],
    ["revoked"],
    ["ssf"],
    ["ssf", "serve"],
    ["hook"],
    ["hook", "serve"],
    ["hook", "install"],
    ["hook", "uninstall"],
    ["hook", "status"],
    ["identity"],
    ["identity", "list"],
    ["identity", "check"],
]


def test_alone_it_lists_the_verbs_in_the_order_of_the_work(cli: Run) -> None:
    said = cli()
    assert said.code == 0
    found = [line.strip().split("  ")[0] for line in said.lines if line.startswith("  ")]
    assert found == [
        "init",
        "lint",
        "test",
        "token mint",
        "token login",
        "token inspect",
        "check",
        "doctor",
        "explain",
        "approvals list",
        "approve",
        "mcp",
        "replay",
        "revoke",
        "revoked",
        "ssf serve",
        "tts serve",
        "hook install",
        "identity check",
        "audit verify",
    ]


def test_version(cli: Run) -> None:
    said = cli("--version")
    assert said.code == 0
    assert said.out.startswith("guardtrail ")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_teaches(cli: Run, verb: list[str]) -> None:
    said = cli(*verb, "--help")
    assert said.code == 0
    assert "Usage: guardtrail" in said.out
    if verb not in (["token"], ["audit"], ["ssf"], ["identity"], ["hook"]):
        assert f"guardtrail {' '.join(verb)}" in said.out.partition("Options:")[0], "no example"
        assert "--json" in said.out


@pytest.mark.parametrize("words", [["lnit"], ["lint"], ["check"], ["token", "mint"], ["lint", "--nope", "x"], ["explain"]], ids=" ".join)
def test_wrong_usage_is_2(cli: Run, words: list[str]) -> None:
    said = cli(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err


# -- init ----------------------------------------------------------------------------------------------------------------------


def test_init_as_on_the_page(cli: Run, desk: Path) -> None:
    said = cli("init", "tools:TOOLS", "-o", "first.yaml")
    assert said.code == 0
    assert said.out == (
        "read 2 functions from tools:TOOLS\n"
        "  refund       pay    reversible: no   order control id, amount data decimal   guessed from name and types\n"
        "  send_email   send   reversible: no   to control email, body data             guessed from name and types\n"
        "wrote first.yaml: 2 tools, 1 intent `everything-listed` (grants exactly these tools), 0 rules, 1 test\n"
        "next: correct the lines marked `# guess`, then  guardtrail lint first.yaml\n"
    )
    assert (desk / "first.yaml").read_text("utf-8").count("# guess") >= 3


def test_from_init_to_a_decision(cli: Run) -> None:
    assert cli("init", "tools:TOOLS", "--force").code == 0
    assert cli("lint", "policy.yaml").code == 0
    assert cli("test", "policy.yaml").lines[-1] == "1 passed"
    minted = cli("token", "mint", "--issuer", "d", "--origin", "alice", "--actor", "a", "--intent", "everything-listed")
    yes = cli("check", "-p", "policy.yaml", "--token", minted.out.strip(), "--call", CALL)
    no = cli("check", "-p", "policy.yaml", "--token", minted.out.strip(), "--call", '{"tool": "wipe"}')
    assert (yes.code, no.code) == (0, 1)
    assert yes.out.startswith("allow  permit  refund\n")
    assert no.out.startswith("deny  tool.unknown  wipe\n")


def test_init_does_not_overwrite(cli: Run, desk: Path) -> None:
    before = (desk / "policy.yaml").read_text("utf-8")
    said = cli("init", "tools:TOOLS")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: policy.yaml exists; `--force` replaces it, `-o FILE` writes another\n"
    assert (desk / "policy.yaml").read_text("utf-8") == before


def test_init_to_standard_output_is_the_policy_alone(cli: Run, desk: Path) -> None:
    (desk / "tools.py").write_text((desk / "tools.py").read_text("utf-8") + "\nprint('a noisy module')\n", "utf-8")
    said = cli("init", "tools:TOOLS", "-o", "-")
    assert said.out.startswith("# A first policy")
    assert "noisy" not in said.out
    assert "noisy" in said.err


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ("tools", 2, "`tools` is not of the form MODULE:NAME, as in `tools:TOOLS`"),
        ("tools.py:TOOLS", 2, "`tools.py:TOOLS`: a module is named, not a file; write `tools:TOOLS`"),
        ("tools:TOOL", 2, "tools has no `TOOL`; did you mean `TOOLS`?"),
        ("tool:TOOLS", 2, "there is no module `tool` here"),
        ("tools:refund", 2, "tools:refund is a function; it must be a list, tuple or dict of functions"),
        ("broken:TOOLS", 3, "broken raised ZeroDivisionError while it was imported; GUARDTRAIL_DEBUG=1 shows where"),
        ("needs:TOOLS", 3, "needs needs the module `no_such_module_here`, which is not installed here"),
        ("odd:EMPTY", 2, "odd:EMPTY is empty: there are no functions to describe"),
        ("odd:MIXED", 2, "odd:MIXED: entry 2 is a int, not a function"),
        ("odd:LAMBDA", 2, "odd:LAMBDA: entry 1 is called `<lambda>`, which is no tool name; a dict gives it one: `{'name': function}`"),
        ("odd:TWICE", 2, "odd:TWICE: two functions are called `f`; a dict gives each its own name"),
    ],
)
def test_init_says_what_is_wrong(cli: Run, desk: Path, spec: str, code: int, text: str) -> None:
    (desk / "broken.py").write_text("1 / 0\n", "utf-8")
    (desk / "needs.py").write_text("import no_such_module_here\n", "utf-8")
    (desk / "odd.py").write_text("def f(): ...\nEMPTY = []\nMIXED = [f, 1]\nLAMBDA = [lambda: 1]\nTWICE = (f, f)\n", "utf-8")
    said = cli("init", spec, "-o", "new.yaml")
    assert (said.code, said.out) == (code, "")
    assert text in said.err
    assert not (desk / "new.yaml").exists()


# -- lint ----------------------------------------------------------------------------------------------------------------------

WRONG = """\
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  send_email: {effect: send, control: {to: email}, data: {body: text}}
intents:
  refund-order:
    params: {order: id, ceiling: decimal}
    ttl: 10m
    allow:
      refund: {args: {order: {eq: $order}, amuont: {range: {max: $ceiling}}}}
      send_email: {}
"""


def test_lint_as_on_the_page(cli: Run, desk: Path) -> None:
    (desk / "policy.yaml").write_text(WRONG, "utf-8")
    said = cli("lint", "policy.yaml")
    assert said.code == 1
    assert said.out == (
        "policy.yaml:12:44: error [lint.unknown-argument] tool `refund` has no argument `amuont`\n"
        "   12 |       refund: {args: {order: {eq: $order}, amuont: {range: {max: $ceiling}}}}\n"
        "      |                                            ^^^^^^ did you mean `amount`?\n"
        "policy.yaml:13:7: warning [lint.unconstrained] intent `refund-order` allows `send_email` (send) with no constraint on `to`\n"
        "1 error, 1 warning; the policy is not loaded while it has errors\n"
    )


def test_lint_json(cli: Run, desk: Path) -> None:
    (desk / "policy.yaml").write_text(WRONG, "utf-8")
    said = cli("lint", "policy.yaml", "--json")
    assert said.code == 1
    assert said.json["ok"] is False
    first = said.json["problems"][0]
    assert set(first) == {"file", "line", "column", "level", "code", "text", "suggestion", "excerpt", "width"}
    assert (first["line"], first["column"], first["width"], first["code"]) == (12, 44, 6, "lint.unknown-argument")


def test_lint_a_sound_policy(cli: Run) -> None:
    said = cli("lint", "policy.yaml")
    assert said.code == 0
    assert said.out == "ok  policy.yaml: policy refunds: 2 tools, 1 intent, 1 rule, 1 test\n"


def test_lint_several_alone_and_as_layers(cli: Run, desk: Path) -> None:
    (desk / "pack.yaml").write_text(
        "guardtrail: 1\nname: pack\nowner: x@y.example\nrules:\n  - {id: r, when: {tool: nope}, limit: {calls: 1}}\n", "utf-8"
    )
    assert cli("lint", "policy.yaml", "pack.yaml").code == 0
    together = cli("lint", "--layers", "policy.yaml", "pack.yaml")
    assert together.code == 1
    assert "pack.yaml:5:" in together.out
    assert "1 of 2 files do not load while they have errors" in together.out


def test_lint_keeps_a_terminal_safe(cli: Run, desk: Path) -> None:
    (desk / "policy.yaml").write_text(
        'guardtrail: 1\nname: x\ntools:\n  "a\\e]0;owned\\a": {effect: read}\n  \u202eb: {effect: read}\n', "utf-8"
    )
    said = cli("lint", "policy.yaml")
    assert said.code == 1
    assert not any(c in said.out for c in "\x1b\x07\u202e")


# -- test ----------------------------------------------------------------------------------------------------------------------

FAILING = """\
policy: policy.yaml
tests:
  - name: only the order of the task
    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: "50"}}
    trace: |
      refund(order="A-17", amount="20")
      refund(order="B-99", amount="20")
    expect: [allow, deny limit.calls]
"""


def test_test_as_on_the_page(cli: Run, desk: Path) -> None:
    (desk / "policy.cases.yaml").write_text(FAILING, "utf-8")
    said = cli("test", "policy.yaml")
    assert said.code == 1
    assert said.lines[0] == "  ok    the ordinary run             2 calls"
    assert said.lines[1] == "  FAIL  only the order of the task   step 2"
    assert said.lines[2] == '          refund(order="B-99", amount="20")'
    assert said.lines[3].startswith("          expected deny limit.calls, got deny args.constraint (policy.yaml:13:")
    assert said.lines[3].endswith("): argument order must equal $order of intent refund-order")
    assert said.lines[4:] == ["1 passed, 1 failed"]


def test_test_json(cli: Run, desk: Path) -> None:
    (desk / "policy.cases.yaml").write_text(FAILING, "utf-8")
    said = cli("test", "policy.yaml", "--json")
    assert said.code == 1
    assert (said.json["ok"], said.json["passed"], said.json["failed"]) == (False, 1, 1)
    assert [each["file"] for each in said.json["tests"]] == ["policy.yaml", "policy.cases.yaml"]
    assert said.json["tests"][1]["steps"][1]["code"] == "args.constraint"


def test_a_case_file_alone_names_its_policy(cli: Run, desk: Path) -> None:
    (desk / "more.cases.yaml").write_text(FAILING.replace("deny limit.calls", "deny args"), "utf-8")
    assert cli("test", "more.cases.yaml").out == "  ok    only the order of the task   2 calls\n1 passed\n"
    assert cli("test", "policy.yaml", "--cases", "more.cases.yaml").lines[-1] == "2 passed"


def test_a_name_wider_than_its_column(cli: Run, desk: Path) -> None:
    (desk / "more.cases.yaml").write_text(FAILING.replace("deny limit.calls", "deny args").replace("only the", "only " + "x" * 60), "utf-8")
    assert cli("test", "more.cases.yaml").lines[0] == f"  ok    only {'x' * 60} order of the task   2 calls"


def test_nothing_tested_is_no_pass(cli: Run, desk: Path) -> None:
    text = (desk / "policy.yaml").read_text("utf-8")
    (desk / "policy.yaml").write_text(text.partition("tests:")[0], "utf-8")
    said = cli("test", "policy.yaml")
    assert (said.code, said.out) == (3, "")
    assert said.err == "error: nothing tested: policy.yaml has no `tests:` and there is no policy.cases.yaml beside it\n"


# -- check ---------------------------------------------------------------------------------------------------------------------


def test_check_as_on_the_page(cli: Run, token: str, normalised: Callable[[str], str]) -> None:
    said = cli("check", "--policy", "policy.yaml", "--token", "@task.jwt", input=OTHER)
    assert said.code == 1
    lines = normalised(said.out).splitlines()
    assert lines[0] == "deny  args.constraint  refund"
    assert lines[1].split() == ["order", "must", "equal", "$order", "intent", "refund-order", "policy.yaml:13:31"] or lines[1].startswith(
        "  order   must equal $order"
    )
    assert lines[2].startswith("  token   acme-dev/<jti> (local issuer)")
    assert lines[2].endswith("grants: hop 1 support yes")
    assert lines[3] == "  fix     a task for the other order"


def test_check_yes_and_no(cli: Run, token: str) -> None:
    assert cli("check", "-p", "policy.yaml", "--token", token, "--call", CALL).code == 0
    assert cli("check", "-p", "policy.yaml", "--token", "@task.jwt", input=OTHER).code == 1


def test_check_takes_nothing(cli: Run, desk: Path, request: pytest.FixtureRequest) -> None:
    """Asked twice it says the same, also on a durable store, which it leaves as it was."""
    from guard.state import open_state

    store = open_state("sqlite:state.db")
    del store
    token = request.getfixturevalue("token")  # younger than the store, else it asks: `state.incomplete`
    for _ in range(2):
        assert cli("check", "-p", "policy.yaml", "--token", token, "--state", "sqlite:state.db", "--call", CALL).code == 0
    assert not list(desk.glob(".guardtrail/audit*"))


def test_check_json(cli: Run, token: str) -> None:
    said = cli("check", "-p", "policy.yaml", "--token", token, "--json", "--call", OTHER)
    assert said.code == 1
    assert said.json["verdict"] == "deny"
    assert said.json["code"] == "args.constraint"
    assert said.json["issuer"] == "local"
    assert (said.json["origin"], said.json["actors"]) == ("alice", ["support"])
    assert token not in said.out
    assert "B-99" not in said.out


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("", "it does not parse"),
        ("refund", "it does not parse"),
        ("[]", "the call is one JSON object"),
        ('{"tool": "refund", "arguments": {}}', "has a member `arguments`"),
        ('{"tool": "refund", "args": []}', "`args` is an object"),
        ('{"tool": 3}', "`tool` and `id` are text"),
        ('{"tool": "refund", "args": {"order": "a", "order": "b"}}', "a member stands twice"),
        ('{"tool": "refund", "args": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_check_of_what_is_no_call(cli: Run, token: str, call: str, text: str) -> None:
    said = cli("check", "-p", "policy.yaml", "--token", token, input=call)
    assert (said.code, said.out) == (2, "")
    assert text in said.err


@pytest.mark.parametrize(
    ("given", "code"), [("", "token.missing"), ("x", "token.malformed"), ("a.b.c", "token.malformed"), ("x" * 20_000, "token.too_large")]
)
def test_check_with_what_is_no_token(cli: Run, given: str, code: str) -> None:
    said = cli("check", "-p", "policy.yaml", "--token", given, "--call", CALL)
    assert said.code == 1
    assert said.out.startswith(f"deny  {code}  ")


def test_check_without_a_token(cli: Run) -> None:
    said = cli("check", "-p", "policy.yaml", "--call", CALL)
    assert said.code == 1
    assert said.out.startswith("deny  task.none  refund\n")


def test_check_with_a_named_issuer(cli: Run, desk: Path) -> None:
    from guard import LocalIssuer

    stranger = LocalIssuer("stranger")
    (desk / "jwks.json").write_text(stranger.jwks, "utf-8")
    token = stranger.mint(origin="alice", actor="a", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
    unknown = cli("check", "-p", "policy.yaml", "--token", token, "--call", CALL)
    assert unknown.code == 3
    assert "nothing here verifies this token" in unknown.err
    other = cli(
        "check",
        "-p",
        "policy.yaml",
        "--token",
        token,
        "--issuer",
        "https://iam.example",
        "--audience",
        "x",
        "--keys",
        "jwks.json",
        "--call",
        CALL,
    )
    assert other.code == 1
    assert other.out.startswith("deny  token.issuer")


@pytest.mark.parametrize(
    "words",
    [["--issuer", "https://iam.example"], ["--audience", "x"], ["--keys", "jwks.json"], ["--issuer", "http://iam.example", "--audience", "x"],
     ["--issuer", "https://iam.example", "--audience", "x", "--keys", "http://iam.example/jwks"], ["--local", "--issuer", "https://x.example"],
     ["--state", "nowhere"]],
    ids=" ".join,
)  # fmt: skip
def test_check_with_half_an_issuer(cli: Run, token: str, words: list[str]) -> None:
    assert cli("check", "-p", "policy.yaml", "--token", token, "--call", CALL, *words).code == 2


# -- token ---------------------------------------------------------------------------------------------------------------------


def test_mint_prints_the_token_alone(cli: Run, desk: Path) -> None:
    said = cli("token", "mint", "--issuer", "acme-dev", "--origin", "alice", "--actor", "a", "--actor", "b", "--intent", "i", "--ttl", "1h")
    assert said.code == 0
    assert len(said.out.strip().split(".")) == 3
    assert said.err == "development issuer acme-dev (.guardtrail/issuers/acme-dev.json); not for production\n"
    assert (desk / ".guardtrail/issuers/acme-dev.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--param", "x"],
        ["--param", "a=1", "--param", "a=2"],
        ["--ttl", "soon"],
        ["--issuer", "../x"],
        ["--issuer", "https://iam.example"],
        ["--actor", "alice"],
    ],
    ids=" ".join,
)
def test_mint_refuses(cli: Run, desk: Path, words: list[str]) -> None:
    ordinary = ["--issuer", "d", "--origin", "alice", "--actor", "a", "--intent", "i"]
    assert cli("token", "mint", *ordinary, *words).code == 2
    assert not (desk.parent / "x.json").exists()


def test_inspect(cli: Run, token: str) -> None:
    said = cli("token", "inspect", "@task.jwt")
    assert said.code == 0
    assert said.lines[0].startswith("verified  by the development issuer acme-dev, key ")
    assert "  who      alice > support" in said.lines
    assert token.rpartition(".")[2] not in said.out
    assert token not in said.out


def test_inspect_json_from_standard_input(cli: Run, token: str) -> None:
    said = cli("token", "inspect", "--json", input=token + "\n")
    assert said.code == 0
    assert said.json["verified"] is True
    assert said.json["claims"]["sub"] == "alice"
    assert 0 < said.json["expires_in"] <= 600
    assert token.rpartition(".")[2] not in said.out


def test_inspect_does_not_believe(cli: Run, token: str, desk: Path) -> None:
    head, body, signature = token.split(".")
    forged = f"{head}.{body}.{'A' * len(signature)}"
    said = cli("token", "inspect", forged)
    assert said.code == 1
    assert said.lines[0].startswith("NOT VERIFIED  token.signature")
    (desk / ".guardtrail/issuers/acme-dev.json").unlink()
    unknown = cli("token", "inspect", token)
    assert unknown.code == 0
    assert unknown.lines[0] == "NOT VERIFIED  no key of this issuer is here; nothing below is proven"


@pytest.mark.parametrize("given", ["x", "a.b.c", "{}", "."])
def test_inspect_of_what_is_no_token(cli: Run, given: str) -> None:
    said = cli("token", "inspect", given)
    assert said.code == 1
    assert said.out.startswith("deny  token.malformed")


# -- files that cannot be read -------------------------------------------------------------------------------------------------

UNREADABLE = ["missing.yaml", "folder", "binary.yaml", "huge.yaml"]
READERS = [["lint"], ["test"], ["check", "--call", CALL, "--policy"]]


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("verb", READERS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_unreadable_is_3(cli: Run, desk: Path, verb: list[str], name: str, as_json: bool) -> None:
    (desk / "folder").mkdir()
    (desk / "binary.yaml").write_bytes(bytes(range(256)))
    with (desk / "huge.yaml").open("wb") as file:
        file.truncate(50 << 20)
    said = cli(*verb, name, *(["--json"] if as_json else []))
    assert said.code == 3
    assert said.err.startswith("error: policy ")
    assert len(said.err.splitlines()) == 1
    if as_json:
        assert said.json["ok"] is False
        assert set(said.json["error"]) == {"code", "text"}
    else:
        assert said.out == ""


@pytest.mark.parametrize("verb", READERS[1:], ids=lambda verb: verb[0])
def test_a_policy_that_does_not_load_is_3(cli: Run, desk: Path, verb: list[str]) -> None:
    (desk / "policy.yaml").write_text("guardtrail: 1\nname: x\ntols: {}\n", "utf-8")
    said = cli(*verb, "policy.yaml")
    assert (said.code, said.out) == (3, "")
    assert "policy.yaml:3:1: error [lint." in said.err


def test_json_is_json(cli: Run, token: str) -> None:
    for words in (["lint", "policy.yaml"], ["test", "policy.yaml"], ["token", "inspect", token], ["check", "-p", "policy.yaml", "--token", token, "--call", CALL],
                  ["init", "tools:TOOLS", "-o", "n.yaml"]):  # fmt: skip
        said = cli(*words, "--json")
        assert said.code == 0, words
        assert isinstance(json.loads(said.out), dict)
        assert said.out.isascii()
