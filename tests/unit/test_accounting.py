"""What the worker says about its devices: how long they computed, and how long they stood idle beside waiting work."""

import pytest

from tests.fakes.works import make_work
from worker import metrics as m
from worker.accounting import Accounting
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
