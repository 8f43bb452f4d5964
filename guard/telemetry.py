"""Every name guardtrail puts into telemetry, in one module. Attributes of the GenAI conventions keep their own names (they are
copied here because those conventions still move); everything of ours begins with `guardtrail.`.

| on | facts |
|---|---|
| span and record only | ids: task, step, decision, credential, origin (pseudonym), actor, depth, chain, workload, args_hmac, witnesses |
| also as metric labels | `DECISION`, `MODE`, `CODE`, `RULE`, `EFFECT`, `INTENT`, `TOOL_NAME`: low cardinality, never an id |

Three facts are kept apart: what was answered (`DECISION`), whether the answer counts (`MODE`), what happened (`EXECUTED`).
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACTOR",
    "APPROVALS",
    "ARGS_HMAC",
    "CALL_ID",
    "CHAIN",
    "CODE",
    "COVERAGE_CALLS",
    "COVERAGE_KNOWN",
    "CREDENTIAL",
    "CREDENTIAL_LENT",
    "DECISION",
    "DECISION_DURATION",
    "DECISION_ID",
    "DEFAULT_DENY",
    "DEPTH",
    "EFFECT",
    "ERROR_TYPE",
    "EVENT_DECISION",
    "EVENT_VIOLATION",
    "EXECUTED",
    "FIRED",
    "FIX",
    "INTENT",
    "ISSUER",
    "LINK",
    "META_APPROVAL",
    "META_CALL",
    "META_CODE",
    "META_CREDENTIAL",
    "META_DECISION",
    "META_PROOF",
    "META_TOKEN",
    "MODE",
    "MONITORED",
    "OPENINFERENCE_KIND",
    "OPERATION",
    "ORIGIN",
    "OUTCOME",
    "OWNER",
    "POLICY",
    "RULE",
    "RULES",
    "SCOPE",
    "SPAN_AUTHORIZE",
    "SPAN_EXECUTE",
    "SPAN_WORKFLOW",
    "STEP",
    "TASK_ID",
    "TOOL_NAME",
    "VIOLATIONS",
    "WITNESSES",
    "WORKFLOW_NAME",
    "WORKFLOW_VERDICT",
    "WORKLOAD",
]

SCOPE: Final = "guardtrail"
"""Name of the tracer and meter."""

# spans: `execute_tool {tool}`, `authorize {tool}`, `invoke_workflow {intent}`
SPAN_EXECUTE: Final = "execute_tool"
SPAN_AUTHORIZE: Final = "authorize"
SPAN_WORKFLOW: Final = "invoke_workflow"
EVENT_DECISION: Final = "guardtrail.decision"
EVENT_VIOLATION: Final = "guardtrail.violation"
"""A rule fired: on the call's span and on the root span of its task."""

# conventions of others
OPERATION: Final = "gen_ai.operation.name"
TOOL_NAME: Final = "gen_ai.tool.name"
CALL_ID: Final = "gen_ai.tool.call.id"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
ERROR_TYPE: Final = "error.type"
OPENINFERENCE_KIND: Final = "openinference.span.kind"

# the answer, whether it counts, what happened
DECISION: Final = "guardtrail.decision"
MODE: Final = "guardtrail.mode"
EXECUTED: Final = "guardtrail.executed"
OUTCOME: Final = "guardtrail.outcome"

# low cardinality
CODE: Final = "guardtrail.code"
RULE: Final = "guardtrail.rule"
EFFECT: Final = "guardtrail.effect"
INTENT: Final = "guardtrail.intent"
POLICY: Final = "guardtrail.policy"
MONITORED: Final = "guardtrail.monitored"
WORKFLOW_VERDICT: Final = "guardtrail.workflow.verdict"
FIRED: Final = "guardtrail.fired"
"""What the rule that fired says: `deny`, `ask`, `alert`; whether that counts stands in `MODE`."""
RULES: Final = "guardtrail.workflow.rules"
"""On a task's root span: the rules that fired on its calls or its end and were enforced; monitored ones stand in `MONITORED`."""
DEFAULT_DENY: Final = "default-deny"
"""The value of `RULE` where nothing spoke for the call."""

# span and record only
DECISION_ID: Final = "guardtrail.decision.id"
TASK_ID: Final = "guardtrail.task.id"
STEP: Final = "guardtrail.step"
CREDENTIAL: Final = "guardtrail.credential"
CREDENTIAL_LENT: Final = "guardtrail.credential.lent"
"""The credential its body was lent for its own work: its id, never its text."""
ISSUER: Final = "guardtrail.issuer"
ORIGIN: Final = "guardtrail.origin"
ACTOR: Final = "guardtrail.actor"
DEPTH: Final = "guardtrail.depth"
CHAIN: Final = "guardtrail.chain"
WORKLOAD: Final = "guardtrail.workload"
OWNER: Final = "guardtrail.owner"
"""Who answers for the actor, by the registry."""
ARGS_HMAC: Final = "guardtrail.args_hmac"
APPROVALS: Final = "guardtrail.approvals"
"""On a call that was asked about and runs: each ask with the pseudonyms of those who answered it."""
WITNESSES: Final = "guardtrail.witnesses"
FIX: Final = "guardtrail.fix"
LINK: Final = "guardtrail.link"
"""On a span link, why it is there: `witness` (an earlier step that made a rule fire), `flow` (a value of this call came from there), `pivot`
(the last step before the task changed hands), `caller` (where it happened, in a trace that is not sampled)."""

# in the `_meta` of an MCP request, for a server that has a guard of its own; never in a span or record
META_TOKEN: Final = "guardtrail.io/token"
META_PROOF: Final = "guardtrail.io/proof"
META_CALL: Final = "guardtrail.io/call_id"
"""The id the model gave the call, so that a retry does not run twice."""
META_CREDENTIAL: Final = "guardtrail.io/credential"
"""What the tool was lent for its own work (`credential:` of the policy), for a server that reads it there."""

# in the `_meta` of a refusal
META_DECISION: Final = "guardtrail.io/decision"
META_CODE: Final = "guardtrail.io/code"
META_APPROVAL: Final = "guardtrail.io/approval"
"""What a person is asked (`ApprovalRequired.request`)."""

# metrics
DECISION_DURATION: Final = "guardtrail.decision.duration"
VIOLATIONS: Final = "guardtrail.workflow.violations"
COVERAGE_CALLS: Final = "guardtrail.coverage.calls"
COVERAGE_KNOWN: Final = "guardtrail.coverage.known"
