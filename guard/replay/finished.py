"""Foreign tasks are forgotten once nothing more comes of them: a million calls in traces of four are a quarter of a million tasks."""

from __future__ import annotations

from collections.abc import Iterator

from guard.replay.run import Replay
from guard.replay.said import Judged
from guard.sources import Seen

__all__ = ["fed"]


def fed(run: Replay, seen: Seen) -> Iterator[Judged]:
    """`run.feed(seen)`, the same judgements; afterwards what no later event can ask for is dropped."""
    yield from run.feed(seen)
    if seen.trust == "proven":
        return
    run._decisions.pop(seen.id, None)  # its outcome came with it
    for name in seen.over:
        for key in {("", "", name), ("", seen.task[1], name)}:
            task = run._tasks.get(key)
            if task is None:
                continue
            if run._turns is not None:  # what of it still waits for its turn is judged first, and with the last of that it goes
                task.ended = True
                if task.line.waiting:
                    continue
            yield from run._go(task, all=True)
            run._drop(key)
