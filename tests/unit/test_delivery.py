"""What may be committed in a transaction, and when: decisions of delivery that a whole worker meets only in races."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.configuration import load_settings
from worker.delivery import Delivery
from worker.holdings import Holdings
from worker.transport.interface import TopicPartition, TransactionAborted

PARTITION, OTHER = TopicPartition("reviews", 0), TopicPartition("reviews", 1)


class Committed:
    """A transport that only ends transactions: asks whether all is still ours after `meanwhile`."""

    def __init__(self) -> None:
        self.offsets: list[dict[TopicPartition, int]] = []
        self.meanwhile: Any = lambda: None

    def commit_transaction(self, offsets: dict[TopicPartition, int], still_owned: Any, timeout: float) -> None:
        self.meanwhile()
        if not still_owned():
            raise TransactionAborted("not ours")
        self.offsets.append(offsets)


@pytest.fixture
def holdings() -> Holdings:
    holdings = Holdings()
    holdings.assigned({PARTITION: 3, OTHER: 0})
    holdings.advance({PARTITION: 5})  # past a marker: no record comes with it
    return holdings


@pytest.fixture
def transport() -> Committed:
    return Committed()


@pytest.fixture
def delivery(holdings: Holdings, transport: Committed) -> Delivery:
    anything: Any = SimpleNamespace(
        commit_ended=lambda *_: None, finished=lambda *_: None, wait=lambda *_: None, idle=lambda *_: None
    )
    unused: Any = None
    settings, told = load_settings(None, [], delivery="exactly_once"), [].append
    whole: Any = transport
    return Delivery(settings, whole, holdings, unused, unused, anything, anything, told, unused)


def test_an_offset_without_a_result_is_committed(delivery: Delivery, transport: Committed) -> None:
    delivery.commit_transaction()
    assert transport.offsets == [{PARTITION: 5}]


@pytest.mark.parametrize("gone", ["revoked", "lost"])
def test_but_not_once_its_partition_has_gone(
    delivery: Delivery, transport: Committed, holdings: Holdings, gone: str
) -> None:
    transport.meanwhile = lambda: getattr(holdings, gone)([PARTITION])
    delivery.commit_transaction()
    assert transport.offsets == []


def test_nor_where_it_has_come_back(delivery: Delivery, transport: Committed, holdings: Holdings) -> None:
    transport.meanwhile = lambda: holdings.assigned({PARTITION: 4})
    delivery.commit_transaction()
    assert transport.offsets == []


def test_nothing_is_committed_between_an_abort_and_reading_again(
    delivery: Delivery, transport: Committed, holdings: Holdings
) -> None:
    transport.meanwhile = lambda: holdings.lost([PARTITION])
    delivery.commit_transaction()
    transport.meanwhile = lambda: None
    holdings.assigned({OTHER: 0})  # by a rebalance, while the producer still has the transaction that failed
    holdings.advance({OTHER: 7})
    delivery.commit_transaction()
    assert transport.offsets == []
    delivery.resume()
    delivery.commit_transaction()
    assert transport.offsets == [{OTHER: 7}]
