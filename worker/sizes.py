"""How large a record is for Kafka: the size that a broker compares with a topic's `max.message.bytes`. Pure.

Record batch format v2 (https://kafka.apache.org/documentation/#recordbatch), one record in its batch, uncompressed:
both clients send a batch uncompressed where compression does not make it smaller.
"""

from __future__ import annotations

from schemas.headers import Headers

BATCH_HEADER = 61
HEADER_ROOM = 64 * 1024  # what we may add to a record: output topics take so much more than the input


def batch_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a batch that holds this record alone."""
    body = 3 + _field(key) + _field(value) + _varint(len(headers))
    for name, content in headers:
        body += _field(name.encode()) + _field(content)
    return BATCH_HEADER + _varint(body) + body


def fits(limit: int, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
    """Whether a topic with this `max.message.bytes` takes the record; exact only where it comes close."""
    rough = 100 + len(key or b"") + len(value or b"")
    for name, content in headers:
        rough += 10 + 4 * len(name) + len(content or b"")
    return rough <= limit or batch_bytes(key, value, headers) <= limit


def content_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes a record holds in memory, near enough for a bound."""
    return len(key or b"") + len(value or b"") + sum(len(name) + len(content or b"") for name, content in headers)


def _field(content: bytes | None) -> int:
    return 1 if content is None else _varint(len(content)) + len(content)


def _varint(number: int) -> int:
    """Bytes of a non-negative number as zigzag varint: seven bits a byte, one bit lost to the sign."""
    return max(1, -(-(number.bit_length() + 1) // 7))
