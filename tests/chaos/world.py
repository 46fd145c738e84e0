"""What a chaos run happens in: Kafka of its own, a proxy before it, three topics. Knows no worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from tests.chaos.proxy import Proxy
from worker.tools.kafka_properties import HOST
from worker.tools.local_kafka import LocalKafka
from worker.tools.local_kafka_process import Port

T = TypeVar("T")

INPUT, OUTPUT, DEAD_LETTERS, GROUP = "reviews", "reviews.labelled", "reviews.dead-letters", "chaos"
PARTITIONS, GROWN, OUTPUT_PARTITIONS = 6, 8, 4  # fewer in the output, so that two inputs share one
ANSWER = 30.0  # seconds to wait for any answer
ATTEMPT = 8.0  # after which it is asked again
QUICK = {  # what shortens a run and changes nothing else: the workers' sessions, a dead broker's, a deleted topic's
    "group.min.session.timeout.ms": "1000",
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "300",
}


class World:
    """One node behind a proxy, or three without. A context manager. With `data_dir` the records stay."""

    def __init__(
        self,
        nodes: int = 1,
        data_dir: Path | None = None,
        properties: Mapping[str, str] | None = None,
        partitions: int = PARTITIONS,
    ) -> None:
        self.nodes, self._input_partitions = nodes, partitions
        self.proxy: Proxy | None = None
        properties = {**QUICK, **(properties or {})}
        port = 0
        if nodes == 1:
            port, behind, controller, front = (_free_port() for _ in range(4))
            properties |= {
                "listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}:{behind},CONTROLLER://{HOST}:{controller}",
                "advertised.listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}:{front}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name": "PLAINTEXT",
                "controller.quorum.voters": f"1@{HOST}:{controller}",
            }
            self._front, self._behind = front, behind
        self.kafka = LocalKafka(data_dir, port=port, nodes=nodes, properties=properties)

    def __enter__(self) -> Self:
        self.kafka.start()
        self.bootstrap = self.workers_bootstrap = self.kafka.bootstrap_servers
        self._admin: Any = AdminClient(
            {"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 500, "log_level": 2}
        )
        if self.nodes == 1:
            self.proxy = Proxy(self._front, self._behind)
            self.workers_bootstrap = f"{HOST}:{self._front}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.proxy is not None:
            self.proxy.close()
        self.kafka.stop()

    def create_topics(self) -> bool:
        """Makes those that do not exist; whether the input did, so that it may hold records."""
        replicas, config = self.nodes, {"min.insync.replicas": str(min(self.nodes, 2))}
        counts = {INPUT: self._input_partitions, OUTPUT: OUTPUT_PARTITIONS, DEAD_LETTERS: OUTPUT_PARTITIONS}
        there = self._metadata().topics
        new = [NewTopic(name, count, replicas, config=config) for name, count in counts.items() if name not in there]
        for answer in self._admin.create_topics(new).values() if new else ():
            answer.result(ANSWER)
        return INPUT in there

    def configure(self, topic: str, **config: object) -> None:
        """Sets a topic's settings, `_` for `.`: `configure("t", min_insync_replicas=2)`."""
        entries = [
            ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        self._ask(lambda: self._admin.incremental_alter_configs([resource])[resource].result(ATTEMPT))

    def grow(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(ANSWER)

    def delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(ANSWER)
        deadline = time.monotonic() + ANSWER
        while topic in self.topics():
            assert time.monotonic() < deadline, f"{topic} is still there"
            time.sleep(0.05)

    def brokers(self) -> int:
        return len(self._metadata().brokers)

    def topics(self) -> Collection[str]:
        return set(self._metadata().topics)

    def partitions(self, topic: str) -> int:
        return len(self._metadata(topic).topics[topic].partitions)

    def leaders(self, topic: str) -> Mapping[int, int]:
        """Node (counted from 0) that leads each partition."""
        found = self._metadata(topic).topics[topic].partitions
        return {number: partition.leader - 1 for number, partition in found.items()}

    @property
    def whole(self) -> bool:
        """Whether every node is there and has all that it should have a copy of."""
        metadata = self._metadata()
        partitions = [found for topic in metadata.topics.values() for found in topic.partitions.values()]
        return len(metadata.brokers) == self.nodes and all(len(one.isrs) == len(one.replicas) for one in partitions)

    def uncommitted(self) -> dict[int, tuple[int, int]]:
        """Of each input partition where they differ: the committed offset (below 0: none) and the end."""
        end, committed = self._ends([INPUT], IsolationLevel.READ_COMMITTED), self.committed()
        return {n: (committed[n], at) for (_, n), at in end.items() if at and committed[n] != at}

    def committed(self) -> dict[int, int]:
        """Of each input partition the committed offset; below 0: none."""
        asked = ConsumerGroupTopicPartitions(GROUP, [At(INPUT, number) for number in range(self.partitions(INPUT))])
        found = self._ask(lambda: self._admin.list_consumer_group_offsets([asked])[GROUP].result(ATTEMPT))
        return {at.partition: at.offset for at in found.topic_partitions}

    def records(self, topic: str) -> int:
        """How many of it a read-committed reader finds, to its ends as they are now: offsets count markers too."""
        partitions = self.partitions(topic)
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "none", "enable.partition.eof": True})
        consumer.assign([At(topic, number, 0) for number in range(partitions)])
        found, ended = 0, 0
        try:
            while ended < partitions:
                messages = consumer.consume(10_000, ANSWER)
                assert messages, f"nothing more of {topic} after {found} records"
                for error in (message.error() for message in messages):
                    if error is None:
                        found += 1
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended += 1
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()
        return found

    def open_transactions(self) -> bool:
        """Whether readers of the output are held back by a transaction that is not over."""
        places = [OUTPUT, DEAD_LETTERS]
        written, readable = (self._ends(places, level) for level in IsolationLevel)
        return written != readable

    def _ends(self, topics: Sequence[str], level: IsolationLevel) -> dict[tuple[str, int], int]:
        asked = {At(topic, number): OffsetSpec.latest() for topic in topics for number in range(self.partitions(topic))}
        answers = self._ask(
            lambda: {
                at: answer.result(ATTEMPT)
                for at, answer in self._admin.list_offsets(asked, isolation_level=level).items()
            }
        )
        return {(at.topic, at.partition): found.offset for at, found in answers.items()}

    def _metadata(self, topic: str | None = None) -> Any:
        return self._ask(lambda: self._admin.list_topics(topic, timeout=ATTEMPT))

    def _ask(self, question: Callable[[], T]) -> T:
        """Repeats it while a broker is on its way out or in."""
        deadline = time.monotonic() + ANSWER
        while True:
            try:
                return question()
            except (KafkaException, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                with suppress(KafkaException):
                    self._admin.list_topics(timeout=ATTEMPT)  # it goes on asking a controller that has gone until then
                time.sleep(0.2)


def _free_port() -> int:
    """Given back at once, for a broker or a proxy to take; nobody else asks in between but another run of tests."""
    port = Port()
    port.release()
    return port.number
