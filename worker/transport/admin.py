"""What tools and tests need of a cluster besides reading and writing: topics, offsets, groups. Over kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

from kafka import KafkaAdminClient, errors
from kafka import TopicPartition as KafkaPartition
from kafka.admin import MemberToRemove
from kafka.protocol.consumer import IsolationLevel, OffsetSpec
from kafka.protocol.metadata import MetadataRequest
from kafka.structs import OffsetAndMetadata

from worker.settings import KafkaSettings
from worker.transport.interface import (
    Offsets,
    TopicInfo,
    TopicPartition,
    TransportConfigurationError,
    TransportUnavailable,
)
from worker.transport.kafka_python_client import (
    client_config,
    describe_topic,
    forget_coordinators,
    never_create_topics,
    reaching,
    result,
    retrying,
)

T = TypeVar("T")


@dataclass(frozen=True)
class NewTopic:
    """A topic to be made; `config` in Kafka's own names, such as `retention.ms`."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, object]:
        return {
            "num_partitions": self.partitions,
            "replication_factor": self.replication_factor,
            "configs": dict(self.config),
        }


class Admin:
    """Raises TransportUnavailable when no broker answers within `timeout` seconds, at any call, and
    TransportConfigurationError for what the cluster refuses. To be closed; a context manager."""

    def __init__(self, kafka: KafkaSettings, timeout: float = 15.0) -> None:
        self._kafka, self._timeout = kafka, timeout
        with reaching(kafka, timeout):
            self._client = KafkaAdminClient(**client_config(kafka), bootstrap_timeout_ms=int(timeout * 1000))
        never_create_topics(self._client._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def brokers(self) -> int:
        """How many brokers the cluster has now."""
        return len(self._ask(self._client.describe_cluster)["brokers"])

    def topic(self, name: str) -> TopicInfo | None:
        """The topic's settings; None where it does not exist."""
        return self._ask(lambda: describe_topic(self._client._manager, name, self._timeout))

    def create_topics(self, topics: Sequence[NewTopic]) -> list[str]:
        """Makes those that do not exist and returns their names, once every broker that is up knows all of `topics`;
        never alters one that exists."""
        created = []
        for topic in topics:
            make = partial(self._client.create_topics, {topic.name: topic.options()}, raise_errors=False)
            answer = self._ask(make)["topics"][0]
            if answer["error_code"] == 0:
                created.append(topic.name)
            elif answer["error_code"] != errors.TopicAlreadyExistsError.errno:
                raise TransportConfigurationError(f"topic {topic.name} was not made: {answer['error_message']}")
        for broker in self._ask(self._client.describe_cluster)["brokers"]:
            if broker.get("is_fenced"):  # it is down, and will ask the others when it is back
                continue
            self._ask(partial(self._check_topics, [topic.name for topic in topics], broker["broker_id"]))
        return created

    def _check_topics(self, names: Sequence[str], broker: int) -> None:
        """KafkaError where this broker does not know the topics yet, each partition with its leader."""
        wanted = [MetadataRequest.MetadataRequestTopic(name=name) for name in names]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
        manager = self._client._manager
        for topic in result(manager.call_soon(manager.send, request, broker), self._timeout).topics:
            for code in (topic.error_code, *(partition.error_code for partition in topic.partitions)):
                if code:
                    raise errors.for_code(code)(topic.name)

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Empty where the topic does not exist."""
        info = self.topic(topic)
        return [TopicPartition(topic, number) for number in range(info.partitions if info else 0)]

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        return self._offsets(partitions, OffsetSpec.EARLIEST)

    def end(self, partitions: Collection[TopicPartition], timeout: float | None = None) -> Offsets:
        """First offset not yet readable (read committed)."""
        return self._offsets(partitions, OffsetSpec.LATEST, timeout)

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        """Offset of the first record at or after this time (milliseconds); only those that have one."""
        return {tp: offset for tp, offset in self._offsets(partitions, timestamp).items() if offset >= 0}

    def _offsets(self, partitions: Collection[TopicPartition], timestamp: int, timeout: float | None = None) -> Offsets:
        asked = {KafkaPartition(*tp): timestamp for tp in partitions}
        limit = self._timeout if timeout is None else timeout
        look, isolation = self._client._async_list_partition_offsets, IsolationLevel.READ_COMMITTED
        found = self._ask(lambda: result(self._client._manager.call_soon(look, asked, isolation), limit), limit)
        return {TopicPartition(*tp): at.offset for tp, at in found.items()}

    def committed(self, group: str) -> Offsets:
        """Every offset that the group has committed."""
        return {tp: at.offset for tp, at in self._group_offsets(group).items() if at.offset >= 0}

    def notes(self, group: str) -> Mapping[TopicPartition, str]:
        """What was noted beside every offset that the group has committed."""
        return {tp: at.metadata or "" for tp, at in self._group_offsets(group).items() if at.offset >= 0}

    def _group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        found = self._ask(lambda: self._client.list_group_offsets({group: None}))[group]
        return {TopicPartition(*tp): at for tp, at in found.items()}

    def commit(
        self,
        group: str,
        offsets: Offsets,
        notes: Mapping[TopicPartition, str] | None = None,
        keep_ms: int | None = None,
    ) -> None:
        """Sets a group's offsets, with a note beside each (Kafka takes 4096 bytes unless set otherwise).

        They are kept for `keep_ms`, or, while the group has no members, for as long as the broker is set to (7 days).
        TransportConfigurationError while the group has members."""
        notes, client = notes or {}, self._client
        asked = {KafkaPartition(*tp): OffsetAndMetadata(at, notes.get(tp, ""), -1) for tp, at in offsets.items()}

        async def alter() -> dict[KafkaPartition, type[Exception]]:
            """As the client's own `alter_group_offsets`, which takes no time to keep them."""
            request = client._alter_group_offsets_request(group, asked)
            if keep_ms is not None:
                request.retention_time_ms, request._max_version = keep_ms, 4  # the last version that has it
            coordinator = await client._find_coordinator_id(group)
            response = await client._manager.send(request, node_id=coordinator)
            answers: dict[KafkaPartition, type[Exception]] = client._alter_group_offsets_process_response(response)
            for error in answers.values():
                if issubclass(error, errors.RetriableError):
                    raise error(group)
            return answers

        answers = self._ask(lambda: client._manager.run(alter))
        refused = {f"{tp.topic}-{tp.partition}": e for tp, e in answers.items() if e is not errors.NoError}
        if refused:
            name, error = next(iter(refused.items()))
            why = "the group has members" if error is errors.UnknownMemberIdError else error.__name__
            raise TransportConfigurationError(f"offset of {name} for group {group} was not set: {why}")

    def active(self, group: str) -> bool:
        """Whether the group has members, of whichever protocol."""
        states = {found["group_id"]: found["group_state"] for found in self._ask(self._client.list_groups)}
        return states.get(group, "Dead") not in ("Empty", "Dead")

    def nobodys(self, group: str, topics: Sequence[str]) -> set[TopicPartition]:
        """Partitions of these topics that no member of a group at rest owns; empty while the group rebalances."""
        found = self._ask(lambda: self._client.describe_groups([group]))[group]
        if found["group_state"] != "Stable":
            return set()
        owned = {
            (topic["topic"], number)
            for member in found["members"]
            for topic in member["member_assignment"]["assigned_partitions"]
            for number in topic["partitions"]
        }
        return {tp for topic in topics for tp in self.partitions(topic) if tp not in owned}

    def remove_member(self, group: str, member: str) -> None:
        """Makes a member leave that cannot say so itself; it must not have an instance id."""
        self._ask(lambda: self._client.remove_group_members(group, [MemberToRemove(member)]))

    def _ask(self, call: Callable[[], T], timeout: float | None = None) -> T:
        def ask() -> T:
            try:
                return call()
            except (errors.KafkaError, TimeoutError):
                forget_coordinators(self._client)
                raise

        with self._clear_errors():
            return retrying(ask, self._timeout if timeout is None else timeout)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (errors.RetriableError, TimeoutError, RuntimeError) as error:
            raise TransportUnavailable(f"Kafka at {self._kafka.bootstrap_servers} does not answer: {error}") from error
        except errors.KafkaError as error:
            raise TransportConfigurationError(f"Kafka at {self._kafka.bootstrap_servers} refuses: {error}") from error
