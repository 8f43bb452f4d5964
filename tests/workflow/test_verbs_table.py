"""Every verb as it stands in a policy file, run as `guardtrail test` runs it; the table is `verbs.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.policy.load import read_policy
from guard.policy.supported import ALL
from guard.testing import run_case

DESK = """
guardtrail: 1
name: desk
owner: tests@acme.example
tools:
  read:    {effect: read, control: {id: id}, returns: {labels: [private]}}
  fetch:   {effect: fetch, control: {url: url}}
  mail:    {effect: send, control: {to: email}, returns: none}
  pay:     {effect: pay, control: {iban: iban}, data: {amount: decimal}, returns: none}
  approve: {effect: approve, control: {iban: iban}, data: {amount: decimal}, returns: none}
  note:    {effect: write, data: {text: text}, returns: none, errors_have_no_effect: true}
  buy:     {effect: buy, control: {sku: id}, once: {key: [sku], within: 24h}, returns: none}
  book:    {effect: read, control: {iban: iban}, returns: {shape: {cabin: structured}}, remember: {booking: {key: args.iban, fields: {cabin: cabin}}}}
intents:
  work:
    description: Everything.
    allow:
      read: {}
      fetch: {}
      mail: {}
      pay: {args: {amount: {range: {min: "0.01"}}}}
      approve: {}
      note: {}
      buy: {}
      book: {}
"""
AS = "{origin: alice, actor: worker, intent: work, tasks: {other: {origin: alice, actor: worker, intent: work}}}"
TABLE: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "verbs.yaml").read_text("utf-8"))


def policy_of(row: dict[str, Any]) -> str:
    text = DESK + (f"    order: {row['order']}\n".replace("'", "") if "order" in row else "")
    if row["rules"]:
        text += "rules:\n" + "".join(f"  {line}\n" for line in row["rules"].splitlines())
    text += "tests:\n"
    for n, trace in enumerate(row["traces"]):
        lines = "".join(f"      {line}\n" for line in trace["trace"].splitlines())
        text += f"  - name: trace {n}\n    as: {AS}\n    trace: |\n{lines}    expect: [{', '.join(trace['expect'])}]\n"
        text += f"    end: {trace['end']}\n" if "end" in trace else ""
    return text


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_table(row: dict[str, Any]) -> None:
    policy = read_policy(policy_of(row), parts=ALL)
    assert policy.tests
    for case in policy.tests:
        result = run_case(policy, case)
        assert result.ok, f"{case.name}, step {result.failed}: {result.steps[-1].text}: {result.message}"
