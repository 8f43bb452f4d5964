"""The Transaction Token service without its HTTP: a form in, an answer out (RFC 8693; draft-ietf-oauth-transaction-tokens).

| step     | what                                                                     | what can go wrong            | error                                        |
|----------|--------------------------------------------------------------------------|------------------------------|----------------------------------------------|
| form     | each member once                                                         | twice, not text              | `invalid_request`                            |
| client   | its secret, or its assertion, which is good once                         | `tts.client`                 | `invalid_client`                             |
| request  | token exchange, for a transaction token, of an access token              | `tts.request`                | `invalid_request`, `unsupported_grant_type`  |
| target   | the trust domain, and no other resource                                  | `tts.target`                 | `invalid_target`                             |
| subject  | verified as a guard verifies it, `at+jwt` and no other                   | `token.*`                    | `invalid_request` (RFC 8693 2.2.2)           |
| proof    | of a bound token: DPoP, over the token, for this very address            | `token.proof`                | `invalid_dpop_proof`                         |
| revoked  | the subject, and whatever it was made of                                 | `token.revoked`              | `invalid_request`                            |
| compose  | the new token, compared with the subject (`guard.tokens.issue`)          | `delegation.widened`, ...    | `invalid_scope`, `invalid_authorization_details` |
| used     | the proof is taken as used                                               | `token.proof`                | `invalid_dpop_proof`                         |
| record   | credential in, credential out                                            | `record.unavailable`         | `temporarily_unavailable`                    |
| sign     |                                                                          | `keys.unavailable`           | `temporarily_unavailable`                    |

Any exception on the way is an answer without a token. What an error says is one of our codes and a sentence of ours: nothing of a token, of a secret,
or of what was asked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from guard.errors import GuardError, KeysWanted, TokenRefused
from guard.house import Refusals
from guard.identity.issuers import Issuer
from guard.identity.revoked.store import StoreRevocations
from guard.identity.signing import Ring, SigningKey, signed
from guard.identity.trusted import TrustedIssuers
from guard.issued import IssueRecord
from guard.model import Delegation
from guard.ops import Absent, Applied, Mark, Refused
from guard.ports import Revocations, StateStore, Verifier
from guard.reasons import REASONS, ReasonCode
from guard.server.forms import Answer, Asking, Refusal, asked_of, once
from guard.server.requesters import Requester, Requesters, method_of
from guard.tokens import IssuerRules, KeySet, split, token_json
from guard.tokens.issue import Asked, Composed, Service, compose, deriver
from guard.tokens.lent import ACCESS_TOKEN, GRANT, JWT_TOKEN
from guard.tokens.proof import KEPT, verify_dpop

__all__ = ["SUBJECTS", "TXN_TOKEN", "SubjectIssuer", "TokenService"]

TXN_TOKEN: Final = "urn:ietf:params:oauth:token-type:txn_token"
SUBJECTS: Final = (ACCESS_TOKEN, JWT_TOKEN)
_PROOF: Final = "invalid_dpop_proof"
_PATIENCE = 4.0
"""Seconds a request may wait for the keys of an issuer."""


class Notes(Protocol):
    """Where records of issues go (`guard.record.AuditFile`)."""

    def note(self, record: IssueRecord) -> None: ...


class SubjectIssuer(Issuer):
    """An issuer of subject tokens: its tokens that name no task have one derived."""

    def __init__(self, url: str, *, derive: Callable[[str, str], str], **more: Any) -> None:
        self._derive = derive
        super().__init__(url, **more)

    def _rules(self, keys: KeySet) -> IssuerRules:
        return replace(super()._rules(keys), derive=self._derive)


class _Draft:
    """What is known of a request so far: for its record."""

    __slots__ = ("client", "composed", "key", "method", "parent")

    def __init__(self) -> None:
        self.client: Requester | None = None
        self.method = ""
        self.parent: Delegation | None = None
        self.composed: Composed | None = None
        self.key: SigningKey | None = None


class TokenService:
    """One trust domain's token service. Safe for threads; several processes share folder of keys, store and secrets."""

    def __init__(
        self,
        *,
        url: str,
        domain: str,
        ring: Ring,
        issuers: Sequence[Mapping[str, Any]],
        clients: Sequence[Requester],
        store: StateStore,
        notes: Notes,
        pseudonym: Callable[[str, str], str],
        revocations: Sequence[Revocations] = (),
        over: Callable[[Verifier, Sequence[Issuer]], Verifier] = lambda verifier, issuers: verifier,
        listed: frozenset[str] = frozenset(),
        ttl: int = 300,
        tenant: str | None = None,
        scopes: Mapping[str, tuple[str, ...]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`url`: its own `iss`. `domain`: the `aud` of what it issues. `issuers`: arguments of `Issuer`, of those whose tokens it takes. `store`: where used
        proofs are, and the index of what was taken back. `pseudonym`: (tenant, person) -> the name in records. `over`: what asks more of every
        subject token (status lists), `listed`: of which issuers. `scopes`: the policy's map. Raises ConfigError."""
        self.service = Service(url, domain, ttl, scopes)
        self._clients = Requesters(clients, url)
        self.ring = ring
        self.token_endpoint = f"{url.removesuffix('/')}/token"
        self._tenant = tenant or url
        derive = deriver(ring.txn)
        self.issuers = [SubjectIssuer(**{**one, "derive": derive, "tenant": self._tenant}) for one in issuers]
        self._verifier = over(TrustedIssuers(self.issuers), self.issuers)
        self._listed = listed
        self._store = store
        self._revocations = (StoreRevocations(store, clock=clock), *revocations)
        self._notes, self._pseudonym = notes, pseudonym
        self._refusals = Refusals()
        self._clock = clock

    # -- one request ---------------------------------------------------------------------------------------------------------------

    def answer(self, asking: Asking) -> Answer:
        """The token, or why there is none. Never raises. May wait for keys, the store, the disk."""
        draft = _Draft()
        try:
            return self._issue(asking, draft)
        except Refusal as refusal:
            found = refusal
        except TokenRefused as refused:
            found = Refusal(refused.reason, text=str(refused))
        except GuardError as error:
            code = error.code if isinstance(error.code, ReasonCode) else ReasonCode.GUARD_ERROR
            found = Refusal(code, text=REASONS[code].meaning)
        except Exception as error:
            found = Refusal(ReasonCode.GUARD_ERROR, text=type(error).__name__)
        return self._refuse(found, draft, asking)

    def _issue(self, asking: Asking, draft: _Draft) -> Answer:
        now = int(self._clock())
        form = once(asking.form)
        draft.method = method_of(form, asking.authorization)
        client = draft.client = self._clients.authenticated(form, asking.authorization, now, self._use)
        self._is_ours(form)
        asked = asked_of(form, workload=client.workload, actor=client.acts)
        token = form["subject_token"]
        parent = draft.parent = self._subject(token, now)
        claims = token_json(split(token).payload)  # verified a moment ago
        if "status" in claims and parent.issuer not in self._listed:
            # It would be gone from the new token, and with it what its issuer wanted to take back some day.
            raise Refusal(
                ReasonCode.REVOCATION_UNAVAILABLE, "invalid_request", "the token names a status list, and none of its issuer is configured"
            )
        mark = self._proof(parent, token, asking.dpop, now)
        self._alive(parent, now)
        key = draft.key = self.ring.signing()
        try:
            composed = draft.composed = compose(parent, claims, asked, self.service, chance=secrets.token_urlsafe(12), kid=key.kid, now=now)
        except TokenRefused as refused:
            raise Refusal(refused.reason, _asked_too_much(refused.reason, asked, parent), str(refused)) from None
        if mark:
            self._use(mark, KEPT, Refusal(ReasonCode.TOKEN_PROOF, _PROOF, "this proof was used before"))
        self._note(draft, "issued", ReasonCode.PERMIT)
        child = composed.delegation
        body: dict[str, object] = {
            "access_token": signed(key, composed.payload),
            "issued_token_type": TXN_TOKEN,
            "token_type": "N_A",
            "expires_in": child.expires_at - now,
            "scope": " ".join(sorted(child.scopes)),
        }
        details = asked.details if asked.details is not None else claims.get("authorization_details")
        if details is not None:
            body["authorization_details"] = details
        return Answer(200, body)

    # -- the request ---------------------------------------------------------------------------------------------------------------

    def _is_ours(self, form: Mapping[str, str]) -> None:
        if form.get("grant_type") != GRANT:
            raise Refusal(ReasonCode.TTS_REQUEST, "unsupported_grant_type" if "grant_type" in form else "", "another grant type")
        if form.get("requested_token_type") != TXN_TOKEN:
            raise Refusal(ReasonCode.TTS_REQUEST, text="another `requested_token_type`")
        if form.get("subject_token_type") not in SUBJECTS or "subject_token" not in form:
            raise Refusal(ReasonCode.TTS_REQUEST, text="no `subject_token`, or another `subject_token_type`")
        if "actor_token" in form or "actor_token_type" in form:
            raise Refusal(ReasonCode.TTS_REQUEST, text="an `actor_token`: who acts is the client, where it may")
        if "audience" not in form:
            raise Refusal(ReasonCode.TTS_REQUEST, text="no `audience`")
        if form["audience"] != self.service.audience or "resource" in form:
            raise Refusal(ReasonCode.TTS_TARGET)

    def _subject(self, token: str, now: int) -> Delegation:
        try:
            found = self._verify(token, now)
        except KeysWanted as wanted:
            fetch: Any = getattr(self._verifier, "fetch")  # noqa: B009 - not every verifier has one; only one that has wants keys
            try:
                fetch(wanted).result(timeout=_PATIENCE)
            except TimeoutError:
                raise Refusal(ReasonCode.KEYS_UNAVAILABLE) from None
            found = self._verify(token, now)
        if found.kind != "at+jwt":  # a transaction token is not renewed: its task has the time it was given
            raise TokenRefused(ReasonCode.TOKEN_TYPE)
        return found

    def _verify(self, token: str, now: int) -> Delegation:
        if "~" in token:
            raise TokenRefused(ReasonCode.TOKEN_TYPE)
        return self._verifier.verify(token, now=now)

    def _proof(self, parent: Delegation, token: str, headers: Sequence[str], now: int) -> str:
        """The mark of its proof; "" for a bearer token, which brings none (attack A104)."""
        if parent.bound == "x5t#S256":
            raise Refusal(
                ReasonCode.TOKEN_PROOF,
                "invalid_request",
                "the token is bound to a certificate, and the connection ends before this service",
            )
        if not parent.bound and not headers:
            return ""
        try:
            return verify_dpop(headers, parent, token, method="POST", url=self.token_endpoint, now=now)
        except TokenRefused as refused:
            raise Refusal(refused.reason, _PROOF, str(refused)) from None

    def _alive(self, parent: Delegation, now: int) -> None:
        """What was written before this moment counts, in this second too: the new token may outlive the old one's end."""
        for one in self._revocations:
            if isinstance(one, StoreRevocations):
                one.refresh(now=now, at_once=True)
            said = one.find(parent, now=now)
            if said is not None:
                what, _, by = said.partition("\t")
                raise Refusal(ReasonCode.TOKEN_REVOKED, text=f"{what} was revoked{f' by {by}' if by else ''}")

    def _use(self, mark: str, ttl: int, used: Refusal) -> None:
        """Taken as used; of two that come with one, anywhere on the store, one has it."""
        answer = self._store.apply((Absent(mark), Mark(mark, "tts", ttl)), now=datetime.fromtimestamp(self._clock(), UTC))
        if type(answer) is Refused:
            raise used
        if type(answer) is not Applied:
            raise Refusal(ReasonCode.STATE_UNAVAILABLE)

    # -- the record and the answer -----------------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal, draft: _Draft, asking: Asking) -> Answer:
        code, word = refusal.code, refusal.word
        count = 1
        if draft.client is None:  # anybody can make these: one record a minute for each code
            count = self._refusals.count(str(code), int(self._clock()) // 60)
        try:
            if count:
                self._note(draft, "refused", code, str(refusal), count)
        except Exception:  # noqa: S110 - it is refused anyway
            pass
        status, headers = 400, {}
        if word == "invalid_client":
            status, headers = 401, {"WWW-Authenticate": 'Basic realm="tts"'} if asking.authorization else {}
        elif word == "temporarily_unavailable":
            status, headers = 503, {"Retry-After": "5"}
        elif word == "server_error":
            status = 500
        return Answer(status, {"error": word, "error_description": f"{REASONS[code].public} ({code})"}, headers)

    def _note(self, draft: _Draft, verdict: Any, code: ReasonCode, text: str = "", count: int = 1) -> None:
        """Raises GuardError `record.unavailable`: no token is issued unrecorded."""
        client, parent, composed, key = draft.client, draft.parent, draft.composed, draft.key
        more: dict[str, Any] = {}
        if parent is not None:
            more = {
                "tenant": self._tenant, "task": parent.txn, "parent": str(parent.credential), "parent_kid": parent.credential.kid,
                "origin": self._pseudonym(self._tenant, parent.person or parent.origin), "origin_kind": parent.origin_kind,
                "actors": parent.actors,
            }  # fmt: skip
        if verdict == "issued" and composed is not None and key is not None:
            child = composed.delegation
            more |= {
                "credential": str(child.credential), "kid": key.kid, "actors": child.actors, "workload": child.workload or "",
                "intent": child.intent or "", "scopes": tuple(sorted(child.scopes)), "expires": child.expires_at,
            }  # fmt: skip
        record = IssueRecord(
            int(self._clock() * 1_000_000),
            self.service.issuer,
            verdict,
            str(code),
            client.id if client is not None else "",
            draft.method,
            text=text,
            count=count,
            **more,
        )
        try:
            self._notes.note(record)
        except Exception:
            raise GuardError(REASONS[ReasonCode.RECORD_UNAVAILABLE].meaning, code=ReasonCode.RECORD_UNAVAILABLE) from None


def _asked_too_much(code: ReasonCode, asked: Asked, parent: Delegation) -> str:
    """The OAuth error that says which member of the request was too much."""
    if code in (ReasonCode.TOKEN_DETAILS, ReasonCode.TOKEN_NO_GRANT) and asked.details is not None:
        return "invalid_authorization_details"
    if code is ReasonCode.DELEGATION_WIDENED:
        if asked.scopes is not None and (not asked.scopes <= parent.scopes or asked.details is None):
            return "invalid_scope"
        if asked.details is not None:
            return "invalid_authorization_details"
    return ""
