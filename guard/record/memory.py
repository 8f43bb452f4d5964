"""Records in a list: for tests."""

from __future__ import annotations

from guard.events import DecisionRecord, OutcomeRecord, PivotRecord, Record, TaskRecord

__all__ = ["ListSink"]


class ListSink:
    """Keeps every record in `records`, in order. `required`, so a guard is content with it alone."""

    required = True
    inline = True

    def __init__(self) -> None:
        self.records: list[Record] = []

    def decision(self, record: DecisionRecord) -> None:
        self.records.append(record)

    def outcome(self, record: OutcomeRecord) -> None:
        self.records.append(record)

    def note(self, record: PivotRecord | TaskRecord) -> None:
        self.records.append(record)

    @property
    def decisions(self) -> list[DecisionRecord]:
        return [r for r in self.records if isinstance(r, DecisionRecord)]

    @property
    def outcomes(self) -> list[OutcomeRecord]:
        return [r for r in self.records if isinstance(r, OutcomeRecord)]

    @property
    def notes(self) -> list[PivotRecord | TaskRecord]:
        return [r for r in self.records if isinstance(r, PivotRecord | TaskRecord)]
