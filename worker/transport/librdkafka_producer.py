"""A producer over librdkafka that reports every record's fate once, in order, and can be dropped at any time.

A thread serves its delivery reports. Knows nothing of consuming: transactions are handed the group's metadata.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.settings import KafkaSettings
from worker.transport.interface import DeliveryFailed, Offsets, Outgoing, TransportFault
from worker.transport.librdkafka_client import MOST_BYTES, cause, client_config, complain, native

Report = Callable[[Any, DeliveryFailed | None], None]

BATCH_BYTES = 1_000_000
BATCH_OVERHEAD = 200
TRANSACTION_TIMEOUT = 15.0  # seconds
OFFSETS_TIMEOUT = 4.0  # seconds for what takes milliseconds


class DroppableProducer:
    """`report` is called with each token, from a thread of this producer, until `abandon`.

    `limits`: what each topic takes in one message, in bytes; a batch is a message too, and librdkafka splits none.
    """

    def __init__(
        self, kafka: KafkaSettings, report: Report, limits: Mapping[str, int], transactional_id: str = ""
    ) -> None:
        self._report, self._limits = report, limits
        self._outage_deadline = kafka.outage_deadline
        config: dict[str, Any] = {
            **client_config(kafka),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 0,
            "batch.size": max(1, min([BATCH_BYTES, *(limit - BATCH_OVERHEAD for limit in limits.values())])),
            "message.max.bytes": MOST_BYTES,
            "delivery.timeout.ms": int(kafka.outage_deadline * 1000),
        }
        if transactional_id:
            config["transactional.id"] = transactional_id
            config["transaction.timeout.ms"] = int(TRANSACTION_TIMEOUT * 1000)
            config["delivery.timeout.ms"] = min(config["delivery.timeout.ms"], config["transaction.timeout.ms"])
        self._client = Producer(config)
        self._era = 0  # what was sent in an earlier one is no longer reported
        self._sent = self._settled = 0
        self._reporting = threading.Lock()
        self._ended = False
        self.failed: KafkaError | None = None  # the first refusal; whatever comes after it is refused as well
        self.open = False  # whether there is a transaction
        self.stuck = False  # a call never came back: nothing more can be done with this client
        self._begun_at = 0.0
        self._transactional = bool(transactional_id)
        self._server = threading.Thread(target=self._serve, name="librdkafka-deliveries", daemon=True)
        self._server.start()

    def _serve(self) -> None:
        while not self._ended:
            try:
                self._client.poll(0.1)
            except KafkaException as error:  # a fatal one, of which whoever writes next will be told
                complain(cause(error))
                time.sleep(0.1)
        self._client.purge()
        while len(self._client):  # it aborts the process when it is destroyed with something left to say
            self._client.poll(0.1)

    def send(self, record: Outgoing) -> None:
        """Called from one thread only; blocks while the client's buffer is full."""
        if self.failed is not None:
            self._sent += 1
            self._delivered(self._era, record.token, self.failed, None)
            return
        self._sent += 1
        topic, partition, key, value, headers, token = record
        deliver = partial(self._delivered, self._era, token)
        try:
            if self._transactional:
                self._begin()
            self._client.produce(topic, value, key, partition, deliver, headers=list(headers))
        except BufferError:
            self._sent -= 1
            self._wait_for_room()
            self.send(record)
        except KafkaException as error:  # the topic is unknown, or the transaction has failed already
            self._delivered(self._era, token, cause(error), None)

    def _wait_for_room(self) -> None:
        full, deadline = len(self._client), time.monotonic() + self._outage_deadline
        while len(self._client) >= full:
            if time.monotonic() > deadline or self._ended:
                raise TransportFault("the producer's buffer stayed full for the outage deadline")
            time.sleep(0.001)

    def _delivered(self, era: int, token: Any, error: KafkaError | None, message: Message | None) -> None:
        with self._reporting:
            if era != self._era:
                return
            self._settled += 1
            if self.failed is not None:
                self._report(token, DeliveryFailed(f"an earlier record was refused: {self.failed.str()}"))
            elif error is None:
                self._report(token, None)
            else:
                self.failed = error
                self._report(token, DeliveryFailed(error.str(), too_large=self._is_too_large(error, message)))

    def _is_too_large(self, error: KafkaError, message: Message | None) -> bool:
        """The broker refuses a batch as a whole; only a record that is large by itself can never be written."""
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE or message is None:
            return False
        size = len(message.key() or b"") + len(message.value() or b"")
        return size + BATCH_OVERHEAD > self._limits.get(message.topic() or "", BATCH_BYTES)

    def flush(self, timeout: float) -> bool:
        """True once everything sent is reported, or something was refused; False after `timeout` seconds, or when
        abandoned."""
        deadline = time.monotonic() + timeout
        while self._settled < self._sent and self.failed is None and not self._ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return not self._ended

    def silence(self) -> None:
        """What was sent so far is reported no more, once this has returned."""
        with self._reporting:
            self._era += 1
            self._sent = self._settled = 0
            self.failed = None

    def abandon(self, timeout: float = 0.0) -> None:
        """Ends it, waiting no longer than `timeout` seconds; nothing is reported once this has returned."""
        self.silence()
        self._ended = True
        self._server.join(timeout)

    # Transactions -----------------------------------------------------------------------------------------------

    def begin_session(self, timeout: float) -> None:
        """Ends what an earlier producer with this transactional id left open, and shuts out any other."""
        self._client.init_transactions(timeout)

    def _begin(self) -> None:
        if not self.open:
            self._client.begin_transaction()
            self._begun_at, self.open = time.monotonic(), True

    def commit(self, offsets: Offsets, group: object, timeout: float) -> None:
        """Commits what was sent, and was flushed, together with the offsets. KafkaException when it did not come to
        that, or when no answer came in time."""
        deadline = time.monotonic() + timeout
        self._begin()
        if offsets:
            self._send_offsets(offsets, group, timeout)
        self._client.commit_transaction(max(0.0, deadline - time.monotonic()))
        self.open = False

    def _send_offsets(self, offsets: Offsets, group: object, timeout: float) -> None:
        """In a thread of its own: once a connection breaks, librdkafka may never return (its issue 5456), and
        nothing is lost by giving up the transaction and the client with it."""
        left = min(timeout, OFFSETS_TIMEOUT)
        answer: Future[None] = Future()

        def call() -> None:
            try:
                self._client.send_offsets_to_transaction(native(offsets), group, left)
            except BaseException as error:
                answer.set_exception(error)
            else:
                answer.set_result(None)

        threading.Thread(target=call, name="librdkafka-offsets", daemon=True).start()
        try:
            answer.result(left + 1)  # it keeps its own time where it can
        except TimeoutError:
            self.stuck = True
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "sending offsets never ended")) from None

    def abort(self, timeout: float) -> None:
        """Ends an open transaction. KafkaException when that is not possible, or not in time."""
        if self.open:
            self._client.abort_transaction(timeout)
            self.open = False

    def replaced(self, error: KafkaError | None) -> bool:
        """Whether `error` means that another producer took over the transactional id: a broker that has given up a
        transaction as too old says the same, but not before it is."""
        fenced = error is not None and error.code() in (
            KafkaError._FENCED,
            KafkaError.PRODUCER_FENCED,
            KafkaError.INVALID_PRODUCER_EPOCH,
        )
        return fenced and time.monotonic() - self._begun_at < TRANSACTION_TIMEOUT
