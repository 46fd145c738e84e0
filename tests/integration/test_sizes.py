"""Results and dead letters at the limit of their topics, on real Kafka: the last byte that fits is used, none more."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator

import pytest

from schemas import headers
from schemas.dead_letter import unwrap, wrap
from schemas.labeled import splice_review
from tests.fakes.stream import Sent, StartWorker, Stream, run_until, send
from worker.sizes import batch_bytes
from worker.transport.interface import Record

LIMIT = 2500  # by `batch_bytes`, which a unit test holds against the encoder of a client
AROUND_THE_LIMIT = {LIMIT - 1, LIMIT, LIMIT + 1}
OMITTED = b',"review_omitted":true}'


@pytest.fixture
def narrow_stream(stream: Stream, topics: Callable[..., str]) -> Stream:
    """A stream of one partition whose output and dead letters take less than its input."""
    limit = {"max.message.bytes": str(LIMIT)}
    return stream | {
        "kafka.input_topic": topics("reviews"),
        "kafka.output_topic": topics("labelled", config=limit),
        "kafka.dead_letter_topic": topics("dead-letters", config=limit),
        "breaker.ratio": 1.0,
        "engine.device": "simulated",
    }


def values(before: bytes, after: bytes, *, room: range) -> Iterator[Sent]:
    """One value a length, `room` bytes below the limit; random: brokers compare what compression leaves."""
    chance = random.Random(7)
    for left in room:
        filling = "".join(chance.choices(string.ascii_letters + string.digits, k=LIMIT - left))
        yield b"k", before + filling.encode() + after, ()


@pytest.mark.parametrize("client, delivery", [("kafka-python", "at_least_once"), ("librdkafka", "exactly_once")])
def test_whatever_fits_goes_whole_and_the_rest_goes_without(
    client: str, delivery: str, worker: StartWorker, narrow_stream: Stream
) -> None:
    stream = narrow_stream | {"kafka.client": client, "delivery": delivery}
    reviews = list(values(b'{"review_id":"r","text":"', b'"}', room=range(900, 300, -1)))
    broken = list(values(b"{!", b"", room=range(800, 200, -1)))
    sent = reviews + broken
    send(stream, sent)
    results, letters = run_until(worker, stream, len(sent))
    assert [source(result) for result in results] == list(range(len(reviews)))
    assert [source(letter) for letter in letters] == list(range(len(reviews), len(sent)))

    whole_sizes = set()
    for result in results:
        value, review = result.value or b"", sent[source(result)][1] or b""
        omitted = value.endswith(OMITTED)
        whole = splice_review(value.removesuffix(OMITTED) + b"}", review) if omitted else value
        assert whole.endswith(review + b"}")
        whole_sizes.add(size := batch_bytes(result.key, whole, result.headers))
        assert omitted == (size > LIMIT)
    assert whole_sizes > AROUND_THE_LIMIT

    whole_sizes = set()
    for letter in letters:
        own, info = unwrap(letter.headers)
        original = sent[source(letter)][1]
        whole_headers = wrap(letter.key, original, own, info.model_copy(update={"value_omitted": False}))
        whole_sizes.add(size := batch_bytes(letter.key, original, whole_headers))
        assert letter.value == (original if size <= LIMIT else None)
        assert info.value_omitted == (size > LIMIT)
    assert whole_sizes > AROUND_THE_LIMIT


def source(record: Record) -> int:
    """Offset of the input record behind a result or dead letter."""
    return headers.parse_source(headers.last(record.headers, headers.SOURCE) or b"")[2]
