"""A rule that only watches: it shows in every decision and record, never takes part in the verdict, and has an end date."""

from pathlib import Path

from guard import Denied, Guard, LocalIssuer, ToolCall

iam = LocalIssuer("acme-dev")
guard = Guard(Path(__file__).with_name("policy.yaml"), trust=iam)


@guard.tool
def send_email(to: list[str], body: str) -> str:
    return "sent"


with guard.task(iam.mint(origin="alice", actor="mailer", intent="tell-customers")):
    for body in ("first", "second"):
        decision = guard.check(ToolCall("send_email", {"to": ["bob@acme.example"], "body": body}))
        watched = [f.text for f in decision.findings if f.mode == "monitor"]
        print(send_email(["bob@acme.example"], body), decision.verdict, decision.mode, *watched)
    try:
        send_email(["bob@evil.example"], "third")
    except Denied as denied:
        print(denied)
