"""What the worker holds, against a plain model: whatever comes in whatever order, counts add up and revocations end."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.holdings import Holdings
from worker.transport.interface import Offsets, Record, TopicPartition
from worker.work import Work

PARTITIONS = [TopicPartition("a", 0), TopicPartition("b", 0)]
partitions = st.sampled_from(PARTITIONS)
some_partitions = st.sets(partitions, min_size=1)


def record(partition: TopicPartition, offset: int) -> Record:
    return Record(*partition, offset, 0, b"k" * (offset % 3), b"v" * (offset % 7), (("h", b"x"),))


@dataclass(eq=False)
class Owned:
    """A partition in one epoch."""

    position: int
    committed: int
    unacknowledged: set[int] = field(default_factory=set)
    read: list[Work] = field(default_factory=list)  # neither let go nor handed over
    handed: list[Work] = field(default_factory=list)
    revocation: Revocation | None = None

    @property
    def frontier(self) -> int:
        return min(self.unacknowledged, default=self.position)


@dataclass(eq=False)
class Revocation:
    answer: Future[Offsets]
    waits_for: set[TopicPartition]
    offsets: dict[TopicPartition, int] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.holdings = Holdings()
        self.owned: dict[TopicPartition, Owned] = {}
        self.broker = dict.fromkeys(PARTITIONS, 5)
        self.void: list[Work] = []  # of epochs that are over, still somewhere in the pipeline
        self.revocations: list[Revocation] = []

    def end(self, partition: TopicPartition, *, drained: bool = False) -> None:
        """The epoch of a partition is over."""
        owned = self.owned.pop(partition, None)
        if owned is None:
            return
        self.void += owned.read + owned.handed
        if owned.revocation is not None:
            if drained and owned.frontier > owned.committed:
                owned.revocation.offsets[partition] = owned.frontier
                self.broker[partition] = owned.frontier
            owned.revocation.waits_for.discard(partition)

    @rule(chosen=some_partitions)
    def assigned(self, chosen: set[TopicPartition]) -> None:
        positions = {partition: self.broker[partition] for partition in chosen}
        self.holdings.assigned(positions)
        for partition, position in positions.items():
            self.end(partition)
            self.owned[partition] = Owned(position, position)

    @rule(partition=partitions, steps=st.lists(st.sampled_from([1, 1, 1, 3]), min_size=1, max_size=6))
    def read(self, partition: TopicPartition, steps: list[int]) -> None:
        owned = self.owned.get(partition)
        offset = owned.position if owned else 100
        records = []
        for step in steps:
            offset += step
            records.append(record(partition, offset - 1))
        works = self.holdings.read(records, 1.0)
        assert [work.record for work in works] == (records if owned else [])
        if owned:
            owned.position = offset
            owned.read += works
            owned.unacknowledged |= {work.record.offset for work in works}
            assert all(self.holdings.wants(work) == (owned.revocation is None) for work in works)

    @precondition(lambda self: any(owned.read for owned in self.owned.values()))
    @rule(data=st.data())
    def hand_over_or_let_go(self, data: st.DataObject) -> None:
        owned = data.draw(st.sampled_from([owned for owned in self.owned.values() if owned.read]))
        work = owned.read.pop(data.draw(st.integers(0, len(owned.read) - 1)))
        if data.draw(st.booleans()):
            wanted = owned.revocation is None
            assert self.holdings.hand_over(work) is wanted
            if wanted:
                owned.handed.append(work)
        else:
            self.holdings.let_go([work])

    @precondition(lambda self: any(owned.handed for owned in self.owned.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from([p for p, owned in self.owned.items() if owned.handed]))
        owned = self.owned[partition]
        work = owned.handed.pop(data.draw(st.integers(0, len(owned.handed) - 1)))
        assert self.holdings.acknowledge(work)
        owned.unacknowledged.remove(work.record.offset)
        self.holdings.finish(work)
        if owned.revocation is not None and not owned.handed:
            self.end(partition, drained=True)

    @precondition(lambda self: self.void)
    @rule(data=st.data())
    def what_is_void_changes_nothing(self, data: st.DataObject) -> None:
        work = self.void.pop(data.draw(st.integers(0, len(self.void) - 1)))
        assert not self.holdings.is_current(work)
        assert not self.holdings.hand_over(work)
        assert not self.holdings.acknowledge(work)
        self.holdings.finish(work)
        self.holdings.let_go([work])

    @rule(chosen=some_partitions)
    def revoked(self, chosen: set[TopicPartition]) -> None:
        answer = self.holdings.revoked(chosen)
        revocation = Revocation(answer, {partition for partition in chosen if partition in self.owned})
        self.revocations.append(revocation)
        for partition in list(revocation.waits_for):
            owned = self.owned[partition]
            if owned.revocation is not None:
                owned.revocation.waits_for.discard(partition)
            owned.revocation = revocation
            if not owned.handed:
                self.end(partition, drained=True)

    @rule(chosen=some_partitions)
    def lost(self, chosen: set[TopicPartition]) -> None:
        self.holdings.lost(chosen)
        for partition in chosen:
            self.end(partition)

    @rule()
    def commit(self) -> None:
        expected = {p: owned.frontier for p, owned in self.owned.items() if owned.frontier > owned.committed}
        assert self.holdings.committable() == expected
        self.holdings.committed(expected)
        for partition, offset in expected.items():
            self.broker[partition] = self.owned[partition].committed = offset

    @rule(steps=st.integers(0, 2))
    def advance(self, steps: int) -> None:
        positions = {partition: owned.position + steps for partition, owned in self.owned.items()}
        self.holdings.advance(positions)
        for partition, owned in self.owned.items():
            if not owned.unacknowledged:
                owned.position = positions[partition]

    @invariant()
    def counts_add_up(self) -> None:
        works = [work for owned in self.owned.values() for work in owned.read + owned.handed]
        assert self.holdings.records == len(works)
        assert self.holdings.bytes == sum(work.size for work in works)
        assert self.holdings.handed == sum(len(owned.handed) for owned in self.owned.values())
        assert set(self.holdings.partitions) == set(self.owned)
        assert self.holdings.frontiers() == {p: owned.frontier for p, owned in self.owned.items()}

    @invariant()
    def revocations_are_answered_exactly_when_nothing_is_handed_over_any_more(self) -> None:
        for revocation in self.revocations:
            assert revocation.answer.done() == (not revocation.waits_for)
            if not revocation.waits_for:
                assert revocation.answer.result() == revocation.offsets

    def teardown(self) -> None:
        for owned in list(self.owned.values()):
            for work in owned.handed:
                self.holdings.acknowledge(work)
                self.holdings.finish(work)
            self.holdings.let_go(owned.read)
        assert (self.holdings.records, self.holdings.bytes, self.holdings.handed) == (0, 0, 0)
        assert all(revocation.answer.done() for revocation in self.revocations)
        self.holdings.lost(PARTITIONS)
        assert self.holdings.partitions == []


TestHoldings = Machine.TestCase
TestHoldings.settings = settings(max_examples=100, stateful_step_count=40)


@pytest.fixture
def holdings() -> Holdings:
    return Holdings()


P, Q = PARTITIONS


def test_a_revocation_waits_for_what_is_on_the_device_and_lets_the_rest_go(holdings: Holdings) -> None:
    holdings.assigned({P: 10})
    first, second, third = holdings.read([record(P, offset) for offset in (10, 11, 12)], 0.0)
    assert holdings.hand_over(first) and holdings.hand_over(second)
    answer = holdings.revoked([P])
    assert not holdings.hand_over(third), "not begun, so not begun any more"
    for work in (second, first):
        assert not answer.done()
        holdings.acknowledge(work)
        holdings.finish(work)
    assert answer.result(0) == {P: 12}
    assert not holdings.is_current(third)


def test_a_record_that_is_never_acknowledged_holds_the_offset_back(holdings: Holdings) -> None:
    holdings.assigned({P: 10})
    first, second = holdings.read([record(P, 10), record(P, 11)], 0.0)
    holdings.let_go([first])
    holdings.hand_over(second)
    holdings.acknowledge(second)
    holdings.finish(second)
    assert holdings.committable() == {}
    assert holdings.revoked([P]).result(0) == {}


def on_the_device(holdings: Holdings, *partitions: TopicPartition) -> list[Work]:
    holdings.assigned(dict.fromkeys(partitions, 0))
    works = holdings.read([record(partition, 0) for partition in partitions], 0.0)
    assert all(map(holdings.hand_over, works))
    return works


def test_one_revocation_waits_for_all_its_partitions(holdings: Holdings) -> None:
    first, second = on_the_device(holdings, P, Q)
    answer = holdings.revoked([P, Q])
    for work in (second, first):
        assert not answer.done()
        holdings.acknowledge(work)
        holdings.finish(work)
    assert answer.result(0) == {P: 1, Q: 1}


def test_a_second_revocation_takes_over_and_the_first_waits_only_for_the_rest(holdings: Holdings) -> None:
    first, second = on_the_device(holdings, P, Q)
    both = holdings.revoked([P, Q])
    again = holdings.revoked([P])
    holdings.acknowledge(second)
    holdings.finish(second)
    assert both.result(0) == {Q: 1}
    assert not again.done()
    holdings.acknowledge(first)
    holdings.finish(first)
    assert again.result(0) == {P: 1}


@pytest.mark.parametrize("end", ["lost", "assigned"])
def test_a_revocation_of_what_is_gone_ends_without_its_offset(holdings: Holdings, end: str) -> None:
    (work,) = on_the_device(holdings, P)
    answer = holdings.revoked([P])
    holdings.acknowledge(work)
    holdings.lost([P]) if end == "lost" else holdings.assigned({P: 0})
    assert answer.result(0) == {}
    holdings.finish(work)
    assert holdings.handed == holdings.records == 0


def test_what_is_not_ours_is_given_up_at_once(holdings: Holdings) -> None:
    assert holdings.revoked([P, Q]).result(0) == {}
    holdings.lost([P])


def test_an_answer_nobody_waits_for_any_more_is_no_trouble(holdings: Holdings) -> None:
    holdings.assigned({P: 0})
    (work,) = holdings.read([record(P, 0)], 0.0)
    holdings.hand_over(work)
    assert holdings.revoked([P]).cancel()
    holdings.acknowledge(work)
    holdings.finish(work)
    assert holdings.handed == 0
