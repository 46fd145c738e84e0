"""The offset tracker against a naive model: what it offers to commit is never more, and never less, than it may be."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.offsets import OffsetTracker

STEPS = 1_000_000
PARTITIONS = 4


@dataclass
class Model:
    """One partition in one epoch, as plainly as can be."""

    position: int
    committed: int
    unacknowledged: set[int] = field(default_factory=set)

    @property
    def frontier(self) -> int:
        return min(self.unacknowledged, default=self.position)


def test_a_million_random_steps_agree_with_the_naive_model() -> None:
    rng = random.Random(5)
    draw = rng.random
    tracker: OffsetTracker[int] = OffsetTracker()
    owned: dict[int, Model] = {}
    broker = dict.fromkeys(range(PARTITIONS), 0)  # what is committed there
    flying: list[tuple[int, int, int, Model]] = []  # of every epoch, also of those that are over
    answers: list[dict[int, int]] = []  # of commits, on their way
    gone_up = stale = rewound = 0

    def assign(partition: int) -> None:
        before = tracker.epoch(partition)
        tracker.assign(partition, broker[partition])
        owned[partition] = Model(broker[partition], broker[partition])
        epoch = tracker.epoch(partition)
        assert epoch is not None and (before is None or epoch > before)

    for _ in range(STEPS):
        dice = draw()
        partition = int(draw() * PARTITIONS)
        model = owned.get(partition)
        if dice < 0.6:  # the next record is read, with a hole before it now and then
            if model is not None and len(model.unacknowledged) < 60:
                offset = model.position + (int(draw() * 4) if dice < 0.06 else 0)
                tracker.track(partition, offset)
                model.unacknowledged.add(offset)
                model.position = offset + 1
                flying.append((partition, tracker.epoch(partition) or 0, offset, model))
        elif dice < 0.973:  # one in flight is handled, whichever
            if flying:
                at = int(draw() * len(flying))
                flying[at], flying[-1] = flying[-1], flying[at]
                partition, epoch, offset, model = flying.pop()
                current = owned.get(partition) is model
                assert tracker.acknowledge(partition, epoch, offset) is current
                if current:
                    model.unacknowledged.remove(offset)
                else:
                    stale += 1
        elif dice < 0.985:  # what may be committed is sent; the answer comes later
            expected = {p: m.frontier for p, m in owned.items() if m.frontier > m.committed}
            assert tracker.committable() == expected
            assert tracker.frontiers() == {p: m.frontier for p, m in owned.items()}
            if draw() < 0.9:  # the broker takes it now or never: none reaches it once its epoch is over
                for p, offset in expected.items():
                    assert offset >= broker[p], "a commit goes back"
                    broker[p] = offset
                answers.append(expected)
        elif dice < 0.9965:  # an answer comes, perhaps that of an earlier epoch
            if answers:
                offsets = answers.pop(0)
                tracker.committed(offsets)
                for p, offset in offsets.items():
                    if p in owned:
                        gone_up += offset > owned[p].committed
                        owned[p].committed = max(owned[p].committed, offset)
        elif dice < 0.998:  # the reader passes over markers and holes
            positions = {p: m.position + int(draw() * 3) for p, m in owned.items()}
            tracker.advance(positions)
            for p, m in owned.items():
                if not m.unacknowledged:
                    m.position = positions[p]
        elif dice < 0.9993:
            assign(partition)
        elif dice < 0.9998:
            tracker.release(partition)
            owned.pop(partition, None)
            assert tracker.epoch(partition) is None
        else:  # a delivery failed: everything is read again from what is committed
            mine = tracker.owned()
            assert set(mine) == set(owned)
            tracker.release_all()
            assert tracker.owned() == [] and tracker.committable() == {}
            rewound += 1
            for p in mine:
                assign(p)
    assert min(gone_up, stale, rewound) > 100, "the test has lost its grip"
    for partition, epoch, offset, _ in flying:
        tracker.acknowledge(partition, epoch, offset)
    assert tracker.frontiers() == {p: m.position for p, m in owned.items()}, "all handled, all may be committed"


@given(st.data())
def test_the_frontier_is_the_first_hole_in_what_is_handled(data: st.DataObject) -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 10)
    offsets = sorted(data.draw(st.sets(st.integers(10, 60), max_size=20)))
    for offset in offsets:
        tracker.track("p", offset)
    epoch = tracker.epoch("p") or 0
    waiting = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        assert tracker.acknowledge("p", epoch, offset)
        waiting.remove(offset)
        assert tracker.frontiers()["p"] == min(waiting, default=offsets[-1] + 1)


def test_an_epoch_that_is_over_never_counts() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 0)
    first = tracker.epoch("p") or 0
    tracker.track("p", 0)
    for change in (lambda: tracker.release("p"), lambda: tracker.assign("p", 0), lambda: tracker.assign("p", 0)):
        change()
        assert not tracker.is_current("p", first)
        assert not tracker.acknowledge("p", first, 0)
    assert tracker.committable() == {}


def test_a_commit_answered_after_the_next_assignment_does_not_go_back() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 90)
    tracker.committed({"p": 100, "gone": 7})  # sent in an earlier epoch
    tracker.track("p", 90)
    tracker.acknowledge("p", tracker.epoch("p") or 0, 90)
    assert tracker.committable() == {}, "91 would take back what the broker has"
    tracker.committed({"p": 95})
    tracker.advance({"p": 101})
    assert tracker.committable() == {"p": 101}


def test_nothing_is_handled_twice_unnoticed_or_read_backwards() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 5)
    epoch = tracker.epoch("p") or 0
    with pytest.raises(ValueError, match="not in flight"):
        tracker.acknowledge("p", epoch, 5)
    tracker.track("p", 5)
    tracker.acknowledge("p", epoch, 5)
    with pytest.raises(ValueError, match="not in flight"):
        tracker.acknowledge("p", epoch, 5)
    with pytest.raises(ValueError, match="offset 5 read after 5"):
        tracker.track("p", 5)


def test_a_position_passes_over_nothing_in_flight() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 0)
    tracker.track("p", 0)
    tracker.advance({"p": 50, "not ours": 3})
    assert tracker.committable() == {}
    tracker.acknowledge("p", tracker.epoch("p") or 0, 0)
    tracker.advance({"p": 50})
    tracker.advance({"p": 49})
    assert tracker.committable(["p", "not ours"]) == {"p": 50}


def test_what_waits_behind_a_hole_is_unsettled_and_what_no_commit_covers_uncommitted() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.assign("p", 0)
    tracker.assign("q", 0)
    for offset in range(5):
        tracker.track("p", offset)
        tracker.track("q", offset)
    for offset in (1, 2, 3):
        tracker.acknowledge("p", 1, offset)
    assert tracker.unsettled() == tracker.uncommitted() == 10
    tracker.acknowledge("p", 1, 0)
    assert (tracker.unsettled(), tracker.uncommitted()) == (6, 10)
    tracker.committed({"p": 2})
    assert tracker.uncommitted() == 8
    tracker.committed({"p": 4})
    tracker.committed({"p": 2})  # an answer that comes late
    assert (tracker.unsettled(), tracker.uncommitted()) == (6, 6)
    tracker.release("q")
    assert tracker.unsettled() == tracker.uncommitted() == 1
