"""Names of the Kafka headers this product writes. Kafka allows repeated names: readers take the last.

Ours always stand after the input's own headers, which stay untouched and in order.
"""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[str, bytes | None]
Headers = tuple[Header, ...]

MODEL = "review-worker-model"
SOURCE = "review-worker-source"
OWNER = "review-worker-owner"


def source_value(topic: str, partition: int, offset: int) -> bytes:
    """`topic-partition-offset`: unique for an input record, so that a consumer can drop duplicates by it."""
    return f"{topic}-{partition}-{offset}".encode()


def parse_source(value: bytes) -> tuple[str, int, int]:
    """The inverse of `source_value`; a topic name may itself hold dashes. Raises ValueError."""
    topic, partition, offset = value.decode().rsplit("-", 2)
    return topic, int(partition), int(offset)


def last(headers: Iterable[Header], name: str) -> bytes | None:
    """Value of the last header of that name, or None."""
    return next((value for key, value in reversed(tuple(headers)) if key == name), None)
