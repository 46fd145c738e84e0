"""What the worker says about its devices, computing or idle beside waiting work, and about brokers that hold it up."""

import pytest

from tests.fakes.clock import Clock
from tests.fakes.works import make_work
from worker import accounting
from worker import metrics as m
from worker.accounting import Accounting
from worker.health import Health
from worker.holdings import Holdings
from worker.metrics import Metrics
from worker.work import Work


def taken(tokenized_at: float, tokens: list[int] | None = None) -> Work:
    """A record that a device took at 10 and was done with at 11."""
    work = make_work()
    work.tokens, work.tokenized_at, work.taken_at, work.inferred_at = tokens, tokenized_at, 10.0, 11.0
    return work


@pytest.mark.parametrize(
    ("idle_since", "works", "expected"),
    [
        (9.5, [taken(1.0, [1]), taken(9.9, [1])], 0.5),  # it waited all the time that the device stood idle
        (2.0, [taken(9.75, [1])], 0.25),  # the device had nothing to do before it came
        (10.0, [taken(1.0, [1])], 0.0),  # one batch after the other
        (2.0, [taken(1.0), taken(9.75, [1])], 0.25),  # what is not for the device does not count
        (2.0, [taken(1.0)], 0.0),
    ],
)
def test_a_device_is_idle_with_work_from_when_both_waited(
    idle_since: float, works: list[Work], expected: float
) -> None:
    metrics = Metrics()
    Accounting(metrics).inferred(works, idle_since, queued_tokens=7)
    assert metrics.value(m.DEVICE_STARVED) == pytest.approx(expected)
    assert metrics.value(m.DEVICE_BUSY) == pytest.approx(1.0)
    assert metrics.value(m.QUEUED_TOKENS) == 7


class Watched:
    """Looks every half second, while a broker answers whatever else it is asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.metrics, self.holdings, self.health = Metrics(), Holdings(), Health(limits={})
        self.accounting = Accounting(self.metrics)

    def look(self, seconds: float) -> float:
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            self.accounting.answered()
            blocked = self.accounting.look(self.holdings, 0, self.health)
        return blocked


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    clock = Clock()
    monkeypatch.setattr(accounting, "time", clock)
    return Watched(clock)


def test_only_an_acknowledgement_ends_the_wait_for_one(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.look(3600)
    watched.holdings.handed = 5
    assert watched.look(30) == 30
    watched.holdings.handed = 0  # the delivery failed:
    watched.health.wait("consume", "broker", watched.clock.now)  # the transaction is aborted,
    assert watched.look(20) == 50
    watched.health.idle("broker")  # all is read again,
    assert watched.look(3) == 50
    watched.holdings.handed = 5
    watched.health.busy("infer-0", watched.clock.now)  # computed
    assert watched.look(3) == 50
    watched.health.idle("infer-0")
    assert watched.look(10) == 60  # and sent again
    assert watched.metrics.value(m.BLOCKED) == 64
    watched.accounting.finished([make_work()])
    assert watched.look(0.5) == 0
    assert [record.message for record in caplog.records] == [
        "blocked: nothing that was sent is acknowledged",
        "no longer blocked",
    ]


def test_who_has_nothing_on_its_way_waits_for_nothing(watched: Watched) -> None:
    watched.holdings.handed = 5
    assert watched.look(30) == 30
    watched.holdings.handed = 0  # its partitions went to another member
    assert watched.look(30) == 0


def test_a_device_that_takes_long_is_no_broker_s_fault(watched: Watched) -> None:
    watched.holdings.handed = 5
    watched.health.busy("infer-0", watched.clock.now)
    assert watched.look(20) == 0


def test_a_silent_broker_blocks_an_idle_worker(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.clock.now += 60
    assert watched.accounting.look(watched.holdings, 0, watched.health) == 60
    assert [record.message for record in caplog.records] == ["blocked: no broker answers"]
