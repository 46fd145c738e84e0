"""Sizes are those of the bytes that go over the wire: kafka-python's own encoder is the reference."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder

from schemas.headers import Headers
from tests.fakes.works import contents, headers, keys
from worker.sizes import batch_bytes, content_bytes, fits


def encoded(key: bytes | None, value: bytes | None, own: Headers) -> int:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=7,
        producer_epoch=1,
        base_sequence=5,
        batch_size=2**30,
    )
    assert builder.append(0, timestamp=1_700_000_000_000, key=key, value=value, headers=list(own)) is not None
    return len(builder.build())


@given(keys, contents, headers())
@example(None, None, ())
@example(b"", b"", (("", b""), ("", None), ("größe", b"\x00")))
def test_a_record_s_batch_is_as_large_as_kafka_makes_it(key: bytes | None, value: bytes | None, own: Headers) -> None:
    assert batch_bytes(key, value, own) == encoded(key, value, own)


@given(st.integers(0, 70_000), st.integers(0, 300), st.integers(0, 70))
def test_any_lengths(value: int, key: int, count: int) -> None:
    own: Headers = (("name", b"x" * 62),) * count
    assert batch_bytes(b"k" * key, b"v" * value, own) == encoded(b"k" * key, b"v" * value, own)


@given(keys, contents, headers(), st.integers(-100, 100))
@example(None, b"", (("\U0001f600" * 20, None),), -1)
@example(None, None, (), -1)
def test_fits_is_exact_where_it_comes_close(key: bytes | None, value: bytes | None, own: Headers, more: int) -> None:
    limit = encoded(key, value, own) + more
    assert fits(limit, key, value, own) == (more >= 0)


@pytest.mark.parametrize("boundary", [2**6, 2**13, 2**20])
def test_where_a_length_takes_one_more_byte(boundary: int) -> None:
    for length in range(boundary - 12, boundary + 2):
        assert batch_bytes(None, b"v" * length, ()) == encoded(None, b"v" * length, ())


@given(keys, contents, headers())
def test_the_bound_in_memory_counts_what_was_carried(key: bytes | None, value: bytes | None, own: Headers) -> None:
    parts = [key, value, *(name.encode() for name, _ in own), *(content for _, content in own)]
    exact = sum(len(part) for part in parts if part)
    assert exact / 4 <= content_bytes(key, value, own) <= exact
