"""Where each of the 120 token attacks and each other published case is shown: every id once, and every place there."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tokens.test_attacks import ELSEWHERE, ROWS

_TOKENS = "tests/tokens/test_attacks.py"
_CHAIN = "tests/tokens/test_chain.py::test_row"
_PROOF = "tests/tokens/test_proof.py::test_"
_HOUSE = "tests/runtime/test_proof.py::test_"
_HERE = "tests/delegation/test_attacks.py::test_"
_REVOKED = "tests/identity/revoked/"

WHERE: dict[str, tuple[str, ...]] = {
    **{name: (f"{_TOKENS}::test_row[{name}]",) for name in sorted(ROWS.keys() - ELSEWHERE.keys())},
    **{name: (f"{_TOKENS}::{test}",) for name, test in ELSEWHERE.items()},
    **{f"A{n:03}": (f"{_CHAIN}[A{n:03}]",) for n in (72, 77, 78, 79, 80, 81, 82, 83, 84, 87, 90, 93, 109)},
    "A073": (f"{_HERE}a073_the_key_is_registered_to_another_actor", "tests/identity/test_registry.py::test_what_is_said"),
    "A074": (f"{_HERE}a074_an_exchange_for_whom_the_token_does_not_name", f"{_HERE}a074_an_answer_for_another_than_the_token_names", f"{_HERE}a074_offline"),
    "A075": (f"{_HERE}a_child_that_is_broader_at_the_exchange[a075 scope]", "tests/tokens/test_narrow.py::test_row[A075]"),
    "A076": (f"{_HERE}a_child_that_is_broader_at_the_exchange[a076 details]", "tests/tokens/test_narrow.py::test_row[A076]"),
    "A085": (f"{_HOUSE}a085_the_root_with_a_proof_of_the_child",),
    "A086": (f"{_HERE}a086_tricks_with_paths",),
    "A091": (f"{_HERE}a091_a_call_without_an_argument_the_grant_requires",),
    "A092": (f"{_HERE}a092_one_is_not_true",),
    "A095": (f"{_HOUSE}a095_one_budget_for_two_children", f"{_HOUSE}a095_two_keys_do_not_double_a_hop", "tests/delegation/test_machine.py::test_whatever_happens_to_delegations"),
    "A096": (f"{_HOUSE}a096_a_delegation_made_after_its_parent_was_revoked",),
    "A097": (f"{_HOUSE}a097_a_revoked_ancestor_kills_every_descendant",),
    "A098": (f"{_HOUSE}a098_a_proof_is_good_once",),
    "A099": (f"{_HOUSE}a099_two_processes_and_one_proof",),
    "A100": (f"{_HOUSE}a100_a_proof_for_something_else",),
    "A101": (f"{_HOUSE}a101_an_old_proof", f"{_HOUSE}a101_a_proof_from_the_future", f"{_PROOF}a101_iat"),
    "A102": (f"{_HOUSE}a102_a_full_store_denies_and_forgets_nothing",),
    "A103": (f"{_HOUSE}a103_a_bound_token_as_bearer", f"{_PROOF}a103_a104_what_the_token_names"),
    "A104": (f"{_HOUSE}a104_a_proof_binds_no_bearer_token",),
    "A105": (f"{_PROOF}a105_two_headers",),
    "A106": (f"{_PROOF}a106_htu", f"{_PROOF}a106_an_empty_path_is_the_root"),
    "A107": (f"{_PROOF}a107_ath",),
    "A108": (f"{_PROOF}a108_the_key_in_the_header",),
    "A110": (f"{_REVOKED}test_introspect.py::test_a110_a_token_taken_back_lives_for_fifteen_seconds_at_most",),
    "A111": (f"{_REVOKED}test_introspect.py::test_a111_what_is_a_yes", f"{_REVOKED}test_introspect.py::test_a111_another_status_is_no_answer",
             f"{_REVOKED}test_introspect.py::test_a111_a_timeout_is_no_answer_and_is_not_kept", f"{_REVOKED}test_introspect.py::test_a111_nobody_there"),
    "A112": ("tests/tokens/test_events.py::test_a112_what_is_no_event_for_us", "tests/tokens/test_events.py::test_a112_an_unknown_event_is_taken_and_does_nothing",
             f"{_REVOKED}test_inbox.py::test_a112_what_is_refused_has_no_effect", f"{_REVOKED}test_inbox.py::test_a112_a_foreign_sender_touches_nobody_elses_session",
             f"{_REVOKED}test_inbox.py::test_an_event_is_taken_once"),
    "A113": ("tests/tokens/test_events.py::test_a113_before_and_after_the_event", f"{_REVOKED}test_inbox.py::test_a_new_login_works_again"),
    "A114": (f"{_REVOKED}test_statuses.py::test_a114_what_is_no_list", f"{_REVOKED}test_statuses.py::test_a114_nothing_is_fetched_from_elsewhere",
             f"{_REVOKED}test_statuses.py::test_a114_a_list_beyond_its_time_denies", f"{_REVOKED}test_statuses.py::test_a_status_is_looked_up"),
    "A115": (f"{_HERE}a115_no_token_text_in_logs_spans_or_records", f"{_HERE}a115_a_token_in_the_query_of_a_request_counts_nowhere"),
    "A116": (f"{_HERE}a116_another_tool_beside_the_body_is_not_believed", f"{_HERE}a116_two_credentials_in_one_text_are_none", f"{_HERE}a116_over_http"),
    "A117": (f"{_HERE}a117_only_a_permit_permits",),
    "A118": (f"{_HERE}a118_a_denial_has_its_code_and_no_value",),
    "A119": (f"{_HERE}a119_an_unknown_key_and_a_bad_signature_look_alike",),
    "A120": ("tests/delegation/test_oracle.py::test_a120_no_mutation_of_a_chain_is_permitted", "tests/delegation/test_oracle.py::test_a120_no_mutation_of_a_proof_is_permitted",
             "tests/delegation/test_oracle.py::test_a120_whatever_is_presented_only_a_denial_comes_out", "tests/tokens/test_laws.py::test_no_token_with_a_flipped_byte_verifies"),
}  # fmt: skip
_HTTP = "tests/identity/test_remote_hostile.py::test_"
WHERE["A048"] += (
    f"{_TOKENS}::test_a_flood_does_not_slow_the_others_down",
    f"{_HTTP}a_thousand_unknown_kids",
    f"{_HTTP}a_flood_over_an_hour",
)
WHERE["A049"] += (f"{_HTTP}a_good_set_stays_until_its_end",)
WHERE["A050"] += ("tests/identity/test_remote.py::test_a_key_rotated_out_takes_its_tokens_along",)
WHERE["A051"] += (f"{_HTTP}without_keys_nothing_counts",)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def test_every_attack_has_its_place(corpora: Path) -> None:
    rows = lines(corpora / "delegation/attacks.jsonl")
    assert [row["id"] for row in rows] == [f"A{n:03}" for n in range(1, 121)]
    assert WHERE.keys() == {row["id"] for row in rows}
    assert Counter(row["expected"] for row in rows) == {"deny": 108, "invariant": 11, "ignore": 1}
    used = Counter(place for places in WHERE.values() for place in places)
    assert max(used.values()) == 1, "one test, two numbers"


@pytest.mark.parametrize("name", sorted(WHERE))
def test_place(name: str) -> None:
    """The file has the test, and where it is a table of rows, the row; the test's name or row says the number, or its text does."""
    for place in WHERE[name]:
        file, _, test = place.partition("::")
        function, _, row = test.rstrip("]").partition("[")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert callable(getattr(module, function, None)), place
        if row.startswith("A"):
            found = module.ROWS
            assert row in found if isinstance(found, dict) else any(row in one[0] for one in found), place
    assert any(name.lower() in place.lower() for place in WHERE[name]) or name in ELSEWHERE, name


def test_published_counts(corpora: Path) -> None:
    """What the corpora hold, and that the tests which run them run all of it: each of these asserts its own number besides."""
    from tests.delegation import test_must_reject, test_signed_chains
    from tests.tokens import test_svid

    assert len(lines(corpora / "delegation/must_reject.jsonl")) == len(test_must_reject.CLASSES) == 28
    spiffe = lines(corpora / "delegation/spiffe/cases.jsonl")
    assert {one["id"] for one in spiffe} == test_svid.SVIDS.keys() | test_svid.SETS.keys()
    assert Counter(one["group"] for one in spiffe) == {
        "jwt_svid_validate": 13,
        "jwt_svid_parse_without_signature": 9,
        "jwt_bundle": 5,
        "spiffe_bundle": 6,
    }
    assert len(lines(corpora / "ssf/sets.jsonl")) == 25
    for file, invalid, valid in (("json_web_key_test", 21, 5), ("json_web_signature_test", 355, 46)):
        groups = json.loads((corpora / f"jose/wycheproof/{file}.json").read_text("utf-8"))["testGroups"]
        assert Counter(test["result"] for group in groups for test in group["tests"]) == {"invalid": invalid, "valid": valid}
    assert len(test_signed_chains.CHAINS) == 6
