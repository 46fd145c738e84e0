"""Dead letters: the original key, value and headers byte for byte, then our headers. Knows no Kafka client.

Layout of the headers of a dead letter:

    the record's own headers, untouched | ours ... | review-worker-header-count = how many are ours

A replayed record carries its own headers and one more, `review-worker-attempt`, sealed with a checksum over the record,
so that a header of the same name which the producer itself had set is never taken for ours. When a replayed record is
rejected again, that header counts as ours: restoring gives the producer's own headers however often it goes round.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.headers import Header, Headers

HEADER_COUNT = "review-worker-header-count"
ATTEMPT = "review-worker-attempt"


class RejectReason(StrEnum):
    """Why a record could not become a result."""

    NULL_VALUE = "null_value"
    NOT_UTF8 = "not_utf8"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_REVIEW_ID = "invalid_review_id"
    INVALID_TEXT = "invalid_text"
    UNSUPPORTED_SCHEMA_VERSION = "unsupported_schema_version"
    MODEL_FAILURE = "model_failure"
    RESULT_TOO_LARGE = "result_too_large"
    MISSING_KEY = "missing_key"


def _header_name(field: str) -> str:
    return "review-worker-" + field.replace("_", "-")


class DeadLetterInfo(BaseModel):
    """Our headers of a dead letter, decoded. Each field is the header `review-worker-<field with dashes>`."""

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, alias_generator=_header_name, validate_by_name=True
    )

    reason: RejectReason
    stage: Annotated[str, Field(description="Stage of the worker that rejected it.")]
    error: Annotated[str, Field(description="What was wrong; never the review's text.")]
    source: Annotated[str, Field(description="topic-partition-offset of the input record.")]
    record_timestamp: Annotated[int, Field(description="Timestamp of the input record, milliseconds since 1970.")]
    failed_at: AwareDatetime
    worker: Annotated[str, Field(description="Instance that rejected it.")]
    worker_version: str
    model: Annotated[str, Field(description="name@version of the checkpoint it ran.")]
    attempt: Annotated[int, Field(ge=1, description="1 at first; one more after each replay.")]
    value_omitted: Annotated[
        bool, Field(description="True where the record did not fit the topic: value or headers were left out.")
    ] = False

    def to_headers(self) -> Headers:
        """Our headers but the count."""
        fields = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return tuple(
            (name, (value if isinstance(value, str) else json.dumps(value)).encode()) for name, value in fields.items()
        )


def wrap(key: bytes | None, value: bytes | None, headers: Iterable[Header], info: DeadLetterInfo) -> Headers:
    """Headers of the dead letter for a record, whose key and value are the original's even where the letter goes
    without; `info.attempt` must come from `next_attempt`."""
    headers = tuple(headers)
    ours = info.to_headers()
    count = len(ours) + 1 + (_sealed_attempt(key, value, headers) is not None)
    return (*headers, *ours, (HEADER_COUNT, str(count).encode()))


def next_attempt(key: bytes | None, value: bytes | None, headers: Iterable[Header]) -> int:
    """Which attempt the rejection of this record is: 1, or one more than its replay header says."""
    return 1 + (_sealed_attempt(key, value, tuple(headers)) or 0)


def unwrap(headers: Iterable[Header]) -> tuple[Headers, DeadLetterInfo]:
    """The record's own headers and our information. Raises ValueError where these are no headers of a dead letter."""
    headers = tuple(headers)
    if not headers or headers[-1][0] != HEADER_COUNT or not (headers[-1][1] or b"").isdigit():
        raise ValueError(f"not a dead letter: its last header is not {HEADER_COUNT}")
    count = int(headers[-1][1] or b"0")
    if not 0 < count <= len(headers):
        raise ValueError(f"not a dead letter: {HEADER_COUNT} is {count} of {len(headers)} headers")
    own, ours = headers[: len(headers) - count], headers[len(headers) - count : -1]
    return own, DeadLetterInfo.model_validate({name: (value or b"").decode() for name, value in ours})


def replay_headers(key: bytes | None, value: bytes | None, own: Headers, attempt: int) -> Headers:
    """Headers of the replayed record: its own, then the sealed number of attempts it has behind it."""
    return (*own, (ATTEMPT, f"{attempt};{_seal(key, value, own, attempt)}".encode()))


def _sealed_attempt(key: bytes | None, value: bytes | None, headers: Headers) -> int | None:
    if not headers or headers[-1][0] != ATTEMPT:
        return None
    digits, _, seal = (headers[-1][1] or b"").decode(errors="replace").partition(";")
    if not (digits.isascii() and digits.isdigit()) or seal != _seal(key, value, headers[:-1], int(digits)):
        return None
    return int(digits)


def _seal(key: bytes | None, value: bytes | None, own: Headers, attempt: int) -> str:
    return f"{zlib.crc32(ascii((key, value, own, attempt)).encode()):08x}"
