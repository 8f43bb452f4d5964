"""The sixty seconds of the README."""

from decimal import Decimal
from pathlib import Path

from guard import Denied, Guard, LocalIssuer

iam = LocalIssuer("acme-dev")
guard = Guard(Path(__file__).with_name("policy.yaml"), trust=iam)


@guard.tool
def refund(order: str, amount: Decimal) -> str:
    return f"refunded {amount} on {order}"


token = iam.mint(origin="alice", actor="support-agent", intent="refund-order", params={"order": "A-17", "ceiling": "50"})

with guard.task(token):
    for order in ("B-99", "A-17", "A-17"):
        try:
            print(refund(order, Decimal("20")))
        except Denied as denied:
            print(denied)
