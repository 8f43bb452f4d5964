"""Reason codes: one stable word per cause of a decision.

`ReasonCode` is what programs compare (`decision.code == "args.constraint"`); `REASONS` says what each code means, what may be
shown to anyone, and which published risk or control it belongs to. The table in `docs/reason-codes.md` is generated from here.
"""

from __future__ import annotations

from enum import StrEnum

from guard.frozen import frozen

__all__ = ["REASONS", "Reason", "ReasonCode"]


@frozen
class Reason:
    """What one code means.

    `meaning`: for the person who reads the record. `public`: one sentence that gives nothing away to a caller who is not
    trusted yet. `refs`: OWASP Agentic (ASI), OWASP LLM, NIST CSF 2.0, RFC sections.
    """

    meaning: str
    public: str
    refs: tuple[str, ...] = ()


class ReasonCode(StrEnum):
    """Stable codes. The part before the dot is the judge or room that speaks; new codes may be added, none is renamed."""

    PERMIT = "permit"
    DEFAULT_DENY = "default.deny"

    TASK_NONE = "task.none"
    TASK_ENDED = "task.ended"
    TASK_EXPIRED = "task.expired"
    TASK_MISMATCH = "task.mismatch"
    TASK_END = "task.end"
    TASK_SUSPENDED = "task.suspended"

    TOKEN_MISSING = "token.missing"
    TOKEN_TOO_LARGE = "token.too_large"
    TOKEN_MALFORMED = "token.malformed"
    TOKEN_TYPE = "token.type"
    TOKEN_HEADER = "token.header"
    TOKEN_SIGNATURE = "token.signature"
    TOKEN_CLAIMS = "token.claims"
    TOKEN_ISSUER = "token.issuer"
    TOKEN_AUDIENCE = "token.audience"
    TOKEN_EXPIRED = "token.expired"
    TOKEN_NOT_YET = "token.not_yet"
    TOKEN_LIFETIME = "token.lifetime"
    TOKEN_ACTORS = "token.actors"
    TOKEN_PROOF = "token.proof"
    TOKEN_WORKLOAD = "token.workload"
    TOKEN_CHAIN = "token.chain"
    TOKEN_DETAILS = "token.details"
    TOKEN_NO_TASK = "token.no_task"
    TOKEN_NO_GRANT = "token.no_grant"
    TOKEN_REVOKED = "token.revoked"
    KEYS_UNAVAILABLE = "keys.unavailable"
    REVOCATION_UNAVAILABLE = "revocation.unavailable"

    IDENTITY_UNREGISTERED = "identity.unregistered"
    IDENTITY_UNOWNED = "identity.unowned"
    IDENTITY_OVERDUE = "identity.overdue"
    IDENTITY_SUSPENDED = "identity.suspended"
    IDENTITY_KEY = "identity.key"
    IDENTITY_UNAVAILABLE = "identity.unavailable"

    TOOL_UNKNOWN = "tool.unknown"
    TOOL_CHANGED = "tool.changed"
    ARGS_UNKNOWN = "args.unknown"
    ARGS_MISSING = "args.missing"
    ARGS_TYPE = "args.type"
    ARGS_SIZE = "args.size"
    ARGS_CONSTRAINT = "args.constraint"
    ARGS_FROM = "args.from"
    ARGS_CHECK = "args.check"
    ARGS_TOKEN = "args.token"

    GRANT_TOOL = "grant.tool"
    GRANT_ARGS = "grant.args"
    DELEGATION_WIDENED = "delegation.widened"
    DELEGATION_REFUSED = "delegation.refused"
    DELEGATION_UNAVAILABLE = "delegation.unavailable"

    CREDENTIAL_REFUSED = "credential.refused"
    CREDENTIAL_UNAVAILABLE = "credential.unavailable"
    CREDENTIAL_NONE = "credential.none"
    TTS_CLIENT = "tts.client"
    TTS_REQUEST = "tts.request"
    TTS_TARGET = "tts.target"
    INTENT_UNKNOWN = "intent.unknown"
    INTENT_PARAMS = "intent.params"
    INTENT_TOOL = "intent.tool"
    INTENT_ORDER = "intent.order"

    FLOW_PROMPT = "flow.prompt"
    FLOW_PARAMS = "flow.params"
    FLOW_ENDORSED = "flow.endorsed"
    FLOW_DIRECTORY = "flow.directory"
    FLOW_STRUCTURED = "flow.structured"
    FLOW_MADE_HERE = "flow.made_here"
    FLOW_AUTHOR = "flow.author"
    FLOW_TEXT = "flow.text"
    FLOW_UNKNOWN = "flow.unknown"
    FLOW_CARRIES = "flow.carries"
    ASKED_NOT_ASKED = "asked.not_asked"
    ASKED_DELEGATED = "asked.delegated"
    ASK_TOO_MANY = "ask.too_many"
    ASK_REJECTED = "ask.rejected"
    ASK_DECLINED = "ask.declined"
    ASK_UNAVAILABLE = "ask.unavailable"
    ASK_USED = "ask.used"
    ASK_ENDORSE = "ask.endorse"
    ASK_DECLASSIFY = "ask.declassify"

    LIMIT_CALLS = "limit.calls"
    LIMIT_SUM = "limit.sum"
    RULE_MATCH = "rule.match"
    RULE_LIMIT = "rule.limit"
    RULE_REQUIRE = "rule.require"
    RULE_REQUIRE_BEFORE = "rule.require_before"
    RULE_FORBID_AFTER = "rule.forbid_after"
    RULE_EXCLUSIVE = "rule.exclusive"

    CALL_REPLAYED = "call.replayed"
    CALL_ALREADY_RUN = "call.already_run"
    CALL_SEALED = "call.sealed"
    CALL_UNASKED = "call.unasked"
    CALL_CANCELLED = "call.cancelled"
    CALL_DEADLINE = "call.deadline"
    CALL_CONTENDED = "call.contended"

    STATE_UNAVAILABLE = "state.unavailable"
    STATE_INCOMPLETE = "state.incomplete"
    RECORD_UNAVAILABLE = "record.unavailable"
    OBSERVE_FAILED = "observe.failed"
    CLOCK_UNAVAILABLE = "clock.unavailable"
    CLOCK_DRIFT = "clock.drift"
    POLICY_UNAVAILABLE = "policy.unavailable"
    POLICY_OLDER = "policy.older"
    GUARD_ERROR = "guard.error"


_R = Reason
_TOKEN_REFUSED = "the token was not accepted"

REASONS: dict[ReasonCode, Reason] = {
    ReasonCode.PERMIT: _R("every required judge permitted the call", "allowed"),
    ReasonCode.DEFAULT_DENY: _R("a required judge gave no permit; nothing speaks for the call", "not permitted", ("NIST-CSF-PR.AA-05",)),
    ReasonCode.TASK_NONE: _R("the call was made outside a task", "no task is open", ("OWASP-ASI03",)),
    ReasonCode.TASK_ENDED: _R("the task was ended; its identifier is never used again", "the task has ended"),
    ReasonCode.TASK_EXPIRED: _R("the intent's own time to live has passed since the task was opened", "the task has ended"),
    ReasonCode.TASK_MISMATCH: _R(
        "the token names a known task but another origin, intent or parameters than first seen", "the task does not match", ("OWASP-ASI03",)
    ),
    ReasonCode.TASK_END: _R("a rule `when: task.end` is not satisfied", "the task may not end yet"),
    ReasonCode.TASK_SUSPENDED: _R("a rule suspended the task; no call of it is allowed any more", "the task was stopped", ("OWASP-ASI01",)),
    ReasonCode.TOKEN_MISSING: _R("no token was given", "a token is needed"),
    ReasonCode.TOKEN_TOO_LARGE: _R("the token is longer than 16 KiB", _TOKEN_REFUSED, ("RFC8725-3.11",)),
    ReasonCode.TOKEN_MALFORMED: _R("not a canonical compact JWS of strict JSON", _TOKEN_REFUSED, ("RFC7515-5.2", "RFC8725-3.11")),
    ReasonCode.TOKEN_TYPE: _R("`typ` is not one this entry point takes", _TOKEN_REFUSED, ("RFC8725-3.11", "RFC9068-2.1")),
    ReasonCode.TOKEN_HEADER: _R("a header member is not on the allow list or has the wrong form", _TOKEN_REFUSED, ("RFC8725-3.10",)),
    ReasonCode.TOKEN_SIGNATURE: _R(
        "no key of this issuer verifies it: unknown key, wrong algorithm or bad signature", _TOKEN_REFUSED, ("RFC7515-5.2",)
    ),
    ReasonCode.TOKEN_CLAIMS: _R("a claim is missing or has the wrong type or characters", _TOKEN_REFUSED, ("RFC9068-2.2",)),
    ReasonCode.TOKEN_ISSUER: _R("`iss` is not exactly an issuer this guard trusts", _TOKEN_REFUSED, ("RFC8725-3.8",)),
    ReasonCode.TOKEN_AUDIENCE: _R("`aud` is not exactly the audience this guard is configured with", _TOKEN_REFUSED, ("RFC8725-3.9",)),
    ReasonCode.TOKEN_EXPIRED: _R("`exp` has passed", "the token has expired", ("RFC7519-4.1.4",)),
    ReasonCode.TOKEN_NOT_YET: _R("`nbf` or `iat` lies in the future", _TOKEN_REFUSED, ("RFC7519-4.1.5",)),
    ReasonCode.TOKEN_LIFETIME: _R("`exp - iat` is longer than the issuer may grant", _TOKEN_REFUSED),
    ReasonCode.TOKEN_ACTORS: _R(
        "the `act` chain is malformed, repeats an actor or is deeper than 8", _TOKEN_REFUSED, ("RFC8693-4.1", "OWASP-ASI03")
    ),
    ReasonCode.TOKEN_PROOF: _R(
        "the token is bound to a key, or the policy demands one, and no valid, unused proof of it came with the call",
        _TOKEN_REFUSED,
        ("RFC7800-3.1", "RFC9449-7"),
    ),
    ReasonCode.TOKEN_WORKLOAD: _R(
        "the policy demands a proven workload, and no good evidence shows that the program is the actor its token names",
        _TOKEN_REFUSED,
        ("NIST-CSF-PR.AA-01", "OWASP-ASI03"),
    ),
    ReasonCode.TOKEN_CHAIN: _R(
        "the hops of the chain do not fit together (parent, depth, key), or the root allows none",
        _TOKEN_REFUSED,
        ("RFC7800-3.1", "OWASP-ASI03"),
    ),
    ReasonCode.TOKEN_DETAILS: _R("`authorization_details` has an unknown type, member or constraint", _TOKEN_REFUSED, ("RFC9396-5",)),
    ReasonCode.TOKEN_NO_TASK: _R("the token names no task: no `txn`, no configured claim, no `sid`", "the token names no task"),
    ReasonCode.TOKEN_NO_GRANT: _R("the token has no agent_task, no agent_tool and no mapped scope", "the token grants nothing here"),
    ReasonCode.TOKEN_REVOKED: _R(
        "the credential, session, origin, actor, key or task was revoked", "the token was revoked", ("RFC7009", "NIST-CSF-PR.AA-01")
    ),
    ReasonCode.KEYS_UNAVAILABLE: _R("the issuer's keys could not be read", "not available now"),
    ReasonCode.REVOCATION_UNAVAILABLE: _R("the revocation list could not be asked or gave no clear answer", "not available now"),
    ReasonCode.IDENTITY_UNREGISTERED: _R(
        "who acts is not in the registry of identities, under the issuer of its token", _TOKEN_REFUSED, ("NIST-CSF-PR.AA-01", "OWASP-ASI03")
    ),
    ReasonCode.IDENTITY_UNOWNED: _R("nobody owns the identity that acts", "a person must look first", ("NIST-CSF-PR.AA-01",)),
    ReasonCode.IDENTITY_OVERDUE: _R(
        "the secret of the identity that acts was not rotated in time", "a secret is overdue", ("NIST-CSF-PR.AA-01",)
    ),
    ReasonCode.IDENTITY_SUSPENDED: _R(
        "the identity that acts, its key or its workload is suspended or retired", _TOKEN_REFUSED, ("NIST-CSF-PR.AA-01", "OWASP-ASI03")
    ),
    ReasonCode.IDENTITY_KEY: _R(
        "the key the token is bound to is registered to another identity, or not to this one",
        _TOKEN_REFUSED,
        ("RFC7800-3.1", "OWASP-ASI03"),
    ),
    ReasonCode.IDENTITY_UNAVAILABLE: _R("the registry of identities cannot be read", "not available now"),
    ReasonCode.TOOL_UNKNOWN: _R("the policy does not name this tool", "not a tool of this policy", ("OWASP-ASI02",)),
    ReasonCode.TOOL_CHANGED: _R(
        "its server describes the tool otherwise than it was pinned, or it was never pinned (MCP gateway)",
        "not as it was pinned",
        ("OWASP-ASI02", "OWASP-ASI04"),
    ),
    ReasonCode.ARGS_UNKNOWN: _R("an argument that neither the tool nor the policy declares", "unknown argument", ("OWASP-ASI02",)),
    ReasonCode.ARGS_MISSING: _R("a required argument is absent or null", "an argument is missing"),
    ReasonCode.ARGS_TYPE: _R(
        "an argument is not of its declared type, or holds characters no value may hold", "an argument has the wrong type"
    ),
    ReasonCode.ARGS_SIZE: _R("the arguments are larger, deeper or more than the documented bounds", "the arguments are too large"),
    ReasonCode.ARGS_CONSTRAINT: _R(
        "an argument is outside what the intent allows", "an argument is outside the task", ("OWASP-ASI02", "OWASP-LLM06")
    ),
    ReasonCode.ARGS_FROM: _R(
        "an argument does not come from where the intent says it must", "an argument has the wrong source", ("OWASP-ASI01",)
    ),
    ReasonCode.ARGS_CHECK: _R(
        "the intent's `check` is not true of the arguments", "an argument is outside the task", ("OWASP-ASI02", "OWASP-LLM06")
    ),
    ReasonCode.ARGS_TOKEN: _R(
        "the delegation token, or a hop of it, stands in the arguments; it is for the guard, and no tool may have it (MCP gateway)",
        "a credential stands in the arguments",
        ("OWASP-ASI03",),
    ),
    ReasonCode.GRANT_TOOL: _R("a hop of the delegation was not granted this tool", "not granted", ("RFC9396-2", "OWASP-ASI03")),
    ReasonCode.GRANT_ARGS: _R(
        "an argument is outside what a hop of the delegation was granted", "not granted", ("RFC9396-2", "OWASP-ASI03")
    ),
    ReasonCode.DELEGATION_REFUSED: _R(
        "the issuer refused to make the narrower token, or the token lets its holder make none",
        "not granted",
        ("RFC8693-2.2.2", "OWASP-ASI03"),
    ),
    ReasonCode.DELEGATION_UNAVAILABLE: _R(
        "the issuer did not answer with a usable token", "try again later", ("RFC8693-2.2", "OWASP-ASI03")
    ),
    ReasonCode.DELEGATION_WIDENED: _R("a child delegation is not a subset of its parent", "not granted", ("RFC8693-2.1", "OWASP-ASI03")),
    ReasonCode.CREDENTIAL_REFUSED: _R(
        "the issuer refused the credential the tool needs, or answered with more than was asked for",
        "the tool's own access was refused",
        ("RFC8693-2.2.2", "OWASP-ASI03"),
    ),
    ReasonCode.CREDENTIAL_UNAVAILABLE: _R(
        "the credential the tool needs could not be obtained in time", "try again later", ("RFC8693-2.2", "OWASP-ASI03")
    ),
    ReasonCode.CREDENTIAL_NONE: _R(
        "no credential is open here: not inside a body, after its end, or of a tool that declares none",
        "use the credential inside the body it was lent to",
        ("OWASP-ASI03",),
    ),
    ReasonCode.TTS_CLIENT: _R(
        "who asks for a transaction token is not a client that is known, or did not prove to be it",
        "the client could not be authenticated",
        ("RFC6749-5.2", "NIST-CSF-PR.AA-03"),
    ),
    ReasonCode.TTS_REQUEST: _R("the request is not one for a transaction token", "the request cannot be answered", ("RFC8693-2.1",)),
    ReasonCode.TTS_TARGET: _R("the audience that is asked for is not the trust domain", "another audience", ("RFC8693-2.2.2",)),
    ReasonCode.INTENT_UNKNOWN: _R("the token names an intent the policy does not have", "unknown intent"),
    ReasonCode.INTENT_PARAMS: _R("the parameters do not fit the intent's declaration", "the intent's parameters do not fit"),
    ReasonCode.INTENT_TOOL: _R("the intent does not use this tool", "not part of this task", ("OWASP-ASI01", "OWASP-LLM06")),
    ReasonCode.INTENT_ORDER: _R("a later step of the intent's order has run already", "too late in this task", ("OWASP-ASI01",)),
    ReasonCode.FLOW_PROMPT: _R(
        "a control argument comes from the user's own words, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_PARAMS: _R(
        "a control argument comes from the task's parameters, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_ENDORSED: _R(
        "a control argument comes from an approval of the value, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_DIRECTORY: _R(
        "a control argument comes from a trusted list, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_STRUCTURED: _R(
        "a control argument comes from a field of a record, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_MADE_HERE: _R(
        "a control argument comes from an object this task made, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_AUTHOR: _R(
        "a control argument comes from who wrote a record, perhaps an attacker, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_TEXT: _R(
        "a control argument comes from text somebody else wrote, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_UNKNOWN: _R(
        "a control argument comes from nowhere this task has seen, which the flow table does not let reach this effect",
        "an argument has the wrong source",
        ("OWASP-ASI01", "OWASP-LLM01"),
    ),
    ReasonCode.FLOW_CARRIES: _R(
        "the text of the call carries a value whose source may not reach this effect", "an argument has the wrong source", ("OWASP-LLM02",)
    ),
    ReasonCode.ASKED_NOT_ASKED: _R("the trusted prompt does not ask for this effect (a heuristic)", "not asked for", ("OWASP-ASI01",)),
    ReasonCode.ASKED_DELEGATED: _R(
        "the trusted prompt hands its orders to somebody else's words (a heuristic)", "a person must look first", ("OWASP-ASI01",)
    ),
    ReasonCode.ASK_TOO_MANY: _R("the task has asked as often as it may", "too many questions", ("OWASP-ASI09",)),
    ReasonCode.ASK_REJECTED: _R("a person who may answer has said no to this very call", "a person has said no", ("OWASP-ASI09",)),
    ReasonCode.ASK_DECLINED: _R(
        "the program that runs the agent said no before the call was made", "this call is not wanted", ("OWASP-ASI09",)
    ),
    ReasonCode.ASK_UNAVAILABLE: _R("the request could not be kept, so nobody can answer it", "not available now", ("OWASP-ASI09",)),
    ReasonCode.ASK_USED: _R("the approval was used or taken back meanwhile", "a person must look again", ("OWASP-ASI09",)),
    ReasonCode.ASK_ENDORSE: _R("a person must vouch for the value before it may be used", "a person must look first", ("OWASP-ASI09",)),
    ReasonCode.ASK_DECLASSIFY: _R("a person must vouch that a label does not hold any more", "a person must look first", ("OWASP-ASI09",)),
    ReasonCode.LIMIT_CALLS: _R("the number of calls of the grant or intent is used up", "limit reached", ("OWASP-LLM10",)),
    ReasonCode.LIMIT_SUM: _R("the sum of the grant or intent is used up", "limit reached", ("OWASP-LLM10",)),
    ReasonCode.RULE_MATCH: _R("a rule without a verb matches the call", "a rule does not allow this"),
    ReasonCode.RULE_LIMIT: _R("a limit rule is used up", "limit reached", ("OWASP-LLM10",)),
    ReasonCode.RULE_REQUIRE: _R("a rule requires something of this call that is not so", "a rule does not allow this"),
    ReasonCode.RULE_REQUIRE_BEFORE: _R("a rule requires an earlier event that is missing", "something must happen first", ("OWASP-ASI01",)),
    ReasonCode.RULE_FORBID_AFTER: _R("a rule forbids this after what the task has done", "not after what was done", ("OWASP-ASI01",)),
    ReasonCode.RULE_EXCLUSIVE: _R("a rule keeps these events apart by person", "another must do this", ("NIST-CSF-PR.AA-05",)),
    ReasonCode.CALL_REPLAYED: _R(
        "a call with this id and these arguments was decided before; its body never runs twice", "already decided"
    ),
    ReasonCode.CALL_ALREADY_RUN: _R("the policy's `once` key was used by an earlier call", "already done"),
    ReasonCode.CALL_SEALED: _R("the tool body was called past the guard", "call the guarded tool", ("OWASP-ASI02",)),
    ReasonCode.CALL_UNASKED: _R(
        "answers of a person came with the call, and this call has asked for none (MCP gateway)", "nobody was asked", ("OWASP-ASI09",)
    ),
    ReasonCode.CALL_CANCELLED: _R("the caller was cancelled before the body could start", "cancelled"),
    ReasonCode.CALL_DEADLINE: _R("the decision was not complete within the guard's deadline", "not available now"),
    ReasonCode.CALL_CONTENDED: _R("the state changed under the decision more often than it may be judged again", "not available now"),
    ReasonCode.STATE_UNAVAILABLE: _R(
        "the state store failed, timed out or answered with something else than its contract", "not available now"
    ),
    ReasonCode.STATE_INCOMPLETE: _R("the store cannot know the whole past of this task", "a person must look first"),
    ReasonCode.RECORD_UNAVAILABLE: _R("a required sink could not take the decision record; no tool runs unrecorded", "not available now"),
    ReasonCode.OBSERVE_FAILED: _R("the result could not be observed; it is withheld", "the result is withheld"),
    ReasonCode.CLOCK_UNAVAILABLE: _R("the clock failed or gave no time", "not available now"),
    ReasonCode.CLOCK_DRIFT: _R("the wall clock moved more than 60 s away from the monotonic clock", "not available now"),
    ReasonCode.POLICY_UNAVAILABLE: _R("the policy could not be read or does not load", "not available now"),
    ReasonCode.POLICY_OLDER: _R("the task has been judged by a newer policy than the one loaded here", "not available now"),
    ReasonCode.GUARD_ERROR: _R("an unexpected error inside the guard", "not available now"),
}
