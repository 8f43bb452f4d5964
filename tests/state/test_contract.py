"""Both stores keep every promise of the shipped contract, and the contract finds stores that do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from guard.ops import Add, Applied, Op, Refused
from guard.ports import StateStore
from guard.state import MemoryState, SqliteState
from guard.testing.state_contract import Oracle, StateContract, run


class TestMemory(StateContract):
    def make(self) -> StateStore:
        return MemoryState()


class TestSqlite(StateContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.made: list[SqliteState] = []
        yield
        for store in self.made:
            store.close()

    def make(self) -> StateStore:
        self.made.append(SqliteState(self.folder / f"{len(self.made)}.db", timeout=20))
        return self.made[-1]


def test_the_contract_runs_without_pytest() -> None:
    assert len(run(MemoryState)) > 15


class _Partial(MemoryState):
    """Applies one operation after the other."""

    def apply(self, ops: object, *, now: datetime, commit: bool = True) -> Applied | Refused:
        values: list[object] = []
        for index, op in enumerate(ops):  # type: ignore[arg-type, var-annotated]
            answer = super().apply([op], now=now, commit=commit)
            if isinstance(answer, Refused):
                return answer._replace(index=index)
            values.extend(answer.values)
        return Applied(tuple(values), super().apply([], now=now, commit=commit).now)


class _TrialWrites(MemoryState):
    def apply(self, ops: object, *, now: datetime, commit: bool = True) -> Applied | Refused:
        return super().apply(ops, now=now)  # type: ignore[arg-type]


class _ForgetsEarly(MemoryState):
    """A window that ends a bucket early."""

    def apply(self, ops: object, *, now: datetime, commit: bool = True) -> Applied | Refused:
        shorter = [op._replace(window=op.window - op.window // 63) if isinstance(op, Add) and type(op.window) is int else op for op in ops]  # type: ignore[attr-defined]
        return super().apply(shorter, now=now, commit=commit)


class _Raises(MemoryState):
    def apply(self, ops: list[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:  # type: ignore[override]
        if not isinstance(ops, (list, tuple)):
            raise ValueError("ops")
        return super().apply(ops, now=now, commit=commit)


@pytest.mark.parametrize("wrong", [_Partial, _TrialWrites, _ForgetsEarly, _Raises])
def test_the_contract_finds_a_store_that_breaks_it(wrong: type[MemoryState]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        run(wrong)


def test_the_naive_store_is_not_shared_between_seeds() -> None:
    assert Oracle().counts == {}
