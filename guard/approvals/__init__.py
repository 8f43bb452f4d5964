"""Requests and their answers: what persons are asked, who has answered, and that an answer counts once.

    desk = Approvals(trust=Issuer("https://iam.acme.example", audience="approvals"))
    guard = Guard("policy.yaml", trust=..., state=..., approvals=desk)
    ...
    desk.approve(request_id, token)                     # or: guardtrail approve ID --token @bob.jwt

| file         | what                                                                                                   |
|--------------|--------------------------------------------------------------------------------------------------------|
| `desk.py`    | `Approvals`: `guard.ports.Approvals`, and what a person or a page does with requests                   |
| `answers.py` | from answers to approvals                                                                              |
| `drawer.py`  | where requests lie: a state store of their own, arguments encrypted, each row with its end             |
| `sealing.py` | the desk's keys: what is encrypted, what is signed                                                      |
| `trust.py`   | whose tokens approvers may show                                                                        |
| `pending.py` | what persons and pages see of a request                                                                |
| `plain.py`   | requests as plain data and back                                                                        |
"""

from __future__ import annotations

from guard.approvals.desk import Approvals
from guard.approvals.pending import Answered, AnswerRefused, Pending

__all__ = ["AnswerRefused", "Answered", "Approvals", "Pending"]
