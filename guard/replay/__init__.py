"""A recorded run, judged again by the judges the inline guard uses: no tokens, no ports, no bodies."""

from guard.replay.finished import fed
from guard.replay.run import Replay
from guard.replay.said import WITHOUT, Judged, Summary

__all__ = ["WITHOUT", "Judged", "Replay", "Summary", "fed"]
