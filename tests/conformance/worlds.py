"""The same few things a test needs of a Kafka, in memory and for real, and a member of a group to poll."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaPartition
from kafka.admin import MemberToRemove

from schemas.headers import Headers
from worker.settings import Settings
from worker.transport import make_transport
from worker.transport.admin import Admin
from worker.transport.interface import DeliveryFailed, Offsets, Outgoing, Record, TopicPartition, Transport
from worker.transport.memory import MemoryTransport
from worker.transport.memory_broker import MemoryBroker
from worker.transport.reader import read
from worker.transport.writer import TopicWriter

DEADLINE = 20.0  # seconds, for every wait


class Member:
    """A transport and its listener: remembers what it was told, answers a revocation as `answer` says."""

    def __init__(self, transport: Transport, topics: Sequence[str], writes: Sequence[str] = ()) -> None:
        self.transport = transport
        self.records: list[Record] = []
        self.owned: dict[TopicPartition, int] = {}  # with the positions they were assigned at
        self.revocations: list[set[TopicPartition]] = []
        self.losses: list[set[TopicPartition]] = []
        self.delivered_: list[tuple[Any, DeliveryFailed | None]] = []
        self.answer: Callable[[set[TopicPartition]], Future[Offsets]] = lambda partitions: done({})
        transport.connect(10)
        for topic in writes:
            assert transport.topic(topic, 10)
        transport.subscribe(topics, self)

    def assigned(self, positions: Offsets) -> None:
        self.owned.update(positions)

    def revoked(self, partitions: Iterable[TopicPartition]) -> Future[Offsets]:
        self.revocations.append(set(partitions))
        answer = self.answer(set(partitions))
        for partition in self.revocations[-1]:
            del self.owned[partition]
        return answer

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        self.losses.append(set(partitions))
        for partition in self.losses[-1]:
            self.owned.pop(partition, None)

    def delivered(self, token: Any, error: DeliveryFailed | None) -> None:
        self.delivered_.append((token, error))

    def poll(self, timeout: float = 0.05) -> list[Record]:
        records = self.transport.poll(timeout)
        self.records += records
        return records

    def commit(self, offsets: Offsets) -> None:
        """Commits and polls until that has ended; raises what it failed with."""
        answer = self.transport.commit(offsets)
        until(answer.done, self)
        answer.result()

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


def done(offsets: Offsets) -> Future[Offsets]:
    answer: Future[Offsets] = Future()
    answer.set_result(offsets)
    return answer


def until(condition: Callable[[], Any], *members: Member, timeout: float = DEADLINE) -> None:
    """Polls the members until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            states = [(m.owned, len(m.records), m.delivered_[-3:]) for m in members]
            raise AssertionError(f"not within {timeout} s; members (owned, records, last deliveries): {states}")
        for member in members:
            member.poll()
        if not members:
            time.sleep(0.02)


def outgoing(topic: str, value: bytes | None, token: Any = None, partition: int = 0, **more: Any) -> Outgoing:
    return Outgoing(topic, partition, more.get("key"), value, more.get("headers", ()), token)


class World:
    """What differs between the memory and a real cluster."""

    memory = False

    def __init__(self) -> None:
        self.transports: list[Transport] = []
        self.group = f"group-{uuid.uuid4().hex[:8]}"

    def settings(self, delivery: str = "at_least_once", **kafka: Any) -> Settings:
        quick = {"group_id": self.group, "session_timeout": 9.0, "heartbeat_interval": 0.3}
        return Settings(delivery=delivery, kafka={**quick, **kafka})

    def join(self, *topics: str, settings: Settings | None = None, writes: Sequence[str] = ()) -> Member:
        """A new member, its first poll yet to come."""
        return Member(self.transport(settings or self.settings()), topics, writes)

    def joined(self, *topics: str, settings: Settings | None = None, writes: Sequence[str] = ()) -> Member:
        """A member that has its first partitions."""
        member = self.join(*topics, settings=settings, writes=writes)
        until(lambda: member.owned, member)
        return member

    def transport(self, settings: Settings) -> Transport:
        transport = self.make_transport(settings)
        self.transports.append(transport)
        return transport

    def close(self) -> None:
        for transport in self.transports:
            transport.close(5)

    def make_transport(self, settings: Settings) -> Transport:
        raise AssertionError

    def produce(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        self.produce_records(topic, [(None, value, ()) for value in values], partition)


class MemoryWorld(World):
    memory = True

    def __init__(self) -> None:
        super().__init__()
        self.broker = MemoryBroker()

    def make_transport(self, settings: Settings) -> Transport:
        return MemoryTransport(self.broker, settings)

    def topic(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        config = config or {}
        name = uuid.uuid4().hex[:8]
        size = int(config.get("max.message.bytes", 1048588))
        policy = config.get("cleanup.policy", "delete")
        self.broker.create_topic(name, partitions, max_message_bytes=size, cleanup_policy=policy)
        return name

    def produce_records(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, Headers]], partition: int = 0
    ) -> None:
        for record in records:
            self.broker.append(topic, partition, *record)

    @contextmanager
    def transaction(self, topic: str, *values: bytes, commit: bool = True) -> Iterator[None]:
        with self.broker.transaction(commit=commit) as transaction:
            for value in values:
                self.broker.append(topic, 0, None, value, (), transaction)
            yield

    def read(self, topic: str) -> list[Record]:
        return self.broker.read(topic)

    def committed(self) -> Offsets:
        return self.broker.committed(self.group)

    def commit(self, offsets: Offsets) -> None:
        self.broker.group(self.group).committed.update(offsets)

    def truncate(self, topic: str, before: int) -> None:
        self.broker.delete_records(TopicPartition(topic, 0), before)

    def add_partitions(self, topic: str, total: int, member: Member) -> None:
        self.broker.add_partitions(topic, total)

    def expel(self, member: Member) -> None:
        self.broker.expel(self.group, member.transport.member)

    def compacted(self) -> tuple[str, int]:
        topic = self.topic(config={"cleanup.policy": "compact"})
        self.produce_records(topic, [(b"a", b"%d" % number, ()) for number in range(5)])
        self.produce_records(topic, [(b"b", b"x", ())])
        self.broker.compact(topic)
        return topic, 6


class KafkaWorld(World):
    def __init__(self, client: str, bootstrap: str, topics: Callable[..., str]) -> None:
        super().__init__()
        self.client, self.bootstrap, self.make_topic = client, bootstrap, topics
        self.kafka = self.settings().kafka
        self.admin = Admin(self.kafka)

    def settings(self, delivery: str = "at_least_once", **kafka: Any) -> Settings:
        client, _, protocol = self.client.partition(", ")
        given = {"bootstrap_servers": self.bootstrap, "client": client, "group_protocol": protocol or "classic"}
        return super().settings(delivery, **given, **kafka)

    def make_transport(self, settings: Settings) -> Transport:
        return make_transport(settings)

    def close(self) -> None:
        super().close()
        self.admin.close()

    def topic(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        return self.make_topic("conformance", partitions=partitions, config=config)

    def produce_records(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, Headers]], partition: int = 0
    ) -> None:
        failures: list[DeliveryFailed] = []
        with TopicWriter(self.kafka, lambda token, error: failures.append(error) if error else None) as writer:
            for key, value, headers in records:
                writer.send(topic, key, value, headers, partition=partition)
            assert writer.flush(DEADLINE) and not failures

    @contextmanager
    def transaction(self, topic: str, *values: bytes, commit: bool = True) -> Iterator[None]:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=uuid.uuid4().hex)
        try:
            producer.init_transactions()
            producer.begin_transaction()
            for value in values:
                producer.send(topic, value, partition=0)
            producer.flush(DEADLINE)
            yield
            (producer.commit_transaction if commit else producer.abort_transaction)()
        finally:
            producer.close(timeout=1)

    def read(self, topic: str) -> list[Record]:
        partitions = self.admin.partitions(topic)
        batches = read(self.kafka, self.admin.beginning(partitions), self.admin.end(partitions))
        return sorted((record for batch in batches for record in batch), key=lambda r: (r.partition, r.offset))

    def committed(self) -> Offsets:
        return self.admin.committed(self.group)

    def commit(self, offsets: Offsets) -> None:
        self.admin.commit(self.group, offsets)

    def truncate(self, topic: str, before: int) -> None:
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as client:
            client.delete_records({KafkaPartition(topic, 0): before})

    def add_partitions(self, topic: str, total: int, member: Member | None = None) -> None:
        """The member learns of it now: its client would look by itself every 30 s."""
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as client:
            client.create_partitions({topic: total})
        until(lambda: len(self.admin.partitions(topic)) == total)
        if member is None:
            return
        consumer = member.transport._consumer
        if self.client == "kafka-python":
            consumer._cluster.request_update()
        else:
            consumer.list_topics(timeout=DEADLINE)

    def expel(self, member: Member) -> None:
        """An administrator throws every member out: to this one it looks like a missed session."""
        if self.client.endswith("consumer"):
            pytest.skip("members by the new protocol cannot be thrown out")
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as client:
            members = client.describe_groups([self.group])[self.group]["members"]
            client.remove_group_members(self.group, [MemberToRemove(m["member_id"]) for m in members])
