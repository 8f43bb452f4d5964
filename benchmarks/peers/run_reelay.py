"""CPU microseconds of one event for two past-time formulas. Runs in an environment of its own; prints JSON."""

import json
from time import process_time

import reelay

FORMULAS = {
    "never": '{tool: "send"} -> not (once{label: "private"} and once{label: "untrusted"})',
    "within": '{tool: "send"} -> once[:3600]{tool: "approve"}',
}
EVENTS = 20_000


def cost(formula: str) -> float:
    monitor = reelay.discrete_timed_monitor(pattern=formula, condense=False)
    event = {"tool": "read", "label": "none", "order": "A-17"}
    best = 1e9
    for _ in range(5):
        began = process_time()
        for _ in range(EVENTS):
            monitor.update(event)
        best = min(best, process_time() - began)
    # The monitor must have judged: what the formula forbids is found.
    if monitor.update({"tool": "approve", "label": "private"})["value"] is not True:
        raise SystemExit("the formula does not hold where it should")
    monitor.update({"tool": "read", "label": "untrusted"})
    sent = monitor.update({"tool": "send", "label": "none"})["value"]
    if sent is not (formula != FORMULAS["never"]):
        raise SystemExit("the formula was not judged")
    return best / EVENTS * 1e6


print(json.dumps({name: cost(formula) for name, formula in FORMULAS.items()}))
