"""Which topics `topics create` makes of which settings, and what it says of those that exist."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from worker.settings import KafkaSettings
from worker.tools.topics import create
from worker.transport.admin import NewTopic
from worker.transport.interface import TopicInfo

DAY = 86_400_000
CLUSTER_LIMIT = 1_048_588


class FakeAdmin:
    """A cluster of so many brokers with these topics."""

    def __init__(self, brokers: int, **topics: TopicInfo) -> None:
        self._brokers, self.topics = brokers, topics

    def brokers(self) -> int:
        return self._brokers

    def topic(self, name: str) -> TopicInfo | None:
        return self.topics.get(name)

    def create_topics(self, topics: Sequence[NewTopic]) -> list[str]:
        created = []
        for new in topics:
            if new.name not in self.topics:
                self.topics[new.name] = TopicInfo(
                    new.partitions,
                    int(new.config.get("max.message.bytes", CLUSTER_LIMIT)),
                    new.config["cleanup.policy"],
                    int(new.config["min.insync.replicas"]),
                    new.replication_factor,
                    int(new.config["retention.ms"]),
                )
                created.append(new.name)
        return created


KAFKA = KafkaSettings(input_topic="i", output_topic="o", dead_letter_topic="d")


@pytest.mark.parametrize(("brokers", "replication", "in_sync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (9, 3, 2)])
def test_a_new_cluster_gets_all_three(brokers, replication, in_sync):
    admin = FakeAdmin(brokers)
    outcomes = create(admin, KAFKA)
    room = CLUSTER_LIMIT + 64 * 1024
    assert admin.topics == {
        "i": TopicInfo(12, CLUSTER_LIMIT, "delete", in_sync, replication, 7 * DAY),
        "o": TopicInfo(12, room, "delete", in_sync, replication, 7 * DAY),
        "d": TopicInfo(12, room, "delete", in_sync, replication, 30 * DAY),
    }
    assert all(outcome.created and not outcome.differences for outcome in outcomes)


def test_the_input_that_exists_decides_partitions_and_size():
    admin = FakeAdmin(1, i=TopicInfo(5, 3_000_000, "delete", 1, 1, 7 * DAY))
    found, *others = create(admin, KAFKA)
    assert not found.created and not found.differences
    assert [(other.info.partitions, other.info.max_message_bytes) for other in others] == [(5, 3_065_536)] * 2


def test_of_several_inputs_the_largest_decides():
    admin = FakeAdmin(1, a=TopicInfo(3, 100, "delete", 1, 1, -1), b=TopicInfo(9, 200, "delete", 1, 1, -1))
    kafka = KafkaSettings(input_topic=["a", "b", "c"], output_topic="o", dead_letter_topic="d")
    create(admin, kafka)
    assert admin.topics["c"].partitions == admin.topics["o"].partitions == 9
    assert admin.topics["o"].max_message_bytes == CLUSTER_LIMIT + 64 * 1024  # "c" has the cluster's limit
    assert admin.topics["a"].partitions == 3


def test_what_exists_stays_and_its_differences_are_told():
    existing = TopicInfo(6, 1000, "compact", 1, 1, -1)
    admin = FakeAdmin(3, o=existing)
    _, output, _ = create(admin, KAFKA)
    assert admin.topics["o"] == existing
    assert not output.created
    assert output.differences == {
        "partitions": (6, 12),
        "max_message_bytes": (1000, CLUSTER_LIMIT + 64 * 1024),
        "cleanup_policy": ("compact", "delete"),
        "min_insync_replicas": (1, 2),
        "replication_factor": (1, 3),
        "retention_ms": (-1, 7 * DAY),
    }
    assert "cleanup_policy is compact, delete would be sane" in output.describe()
    assert output.to_json()["differences"]["partitions"] == {"is": 6, "sane": 12}


def test_the_largest_limit_there_is_stays_within_what_kafka_takes():
    admin = FakeAdmin(1, i=TopicInfo(1, 2**31 - 1, "delete", 1, 1, -1))
    create(admin, KAFKA)
    assert admin.topics["o"].max_message_bytes == 2**31 - 1
