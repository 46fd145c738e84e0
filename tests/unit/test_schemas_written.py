"""What the worker reads and writes is what the published schemas say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import generate
from schemas.dead_letter import RejectReason
from schemas.headers import Headers
from schemas.recipe import TextRecipe
from tests.fakes.works import headers, make_labelled, make_work
from worker.dead_letters import DeadLetterWriter
from worker.decode import Decoder
from worker.publish import ResultWriter
from worker.settings import InputSettings
from worker.transport.interface import Outgoing, TopicInfo
from worker.work import Rejection

DOCUMENTS = {name: json.loads(text) for name, text in generate.documents().items()}
EVENT, RESULT, LETTER = (
    jsonschema.Draft202012Validator(DOCUMENTS[name])
    for name in ("review-event.json", "labeled-review.json", "dead-letter-headers.json")
)
RESULT_HEADERS = jsonschema.Draft202012Validator(
    DOCUMENTS["asyncapi.json"]["components"]["messages"]["LabeledReview"]["headers"]
)
DECODER = Decoder(InputSettings(), TextRecipe())

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
events = st.fixed_dictionaries(
    {"review_id": st.text(min_size=1) | st.integers(), "text": st.text()},
    optional={
        "title": scalars,
        "rating": scalars | st.integers(1, 5),
        "product_id": scalars,
        "created_at": scalars | st.datetimes().map(lambda time: time.isoformat() + "Z"),
        "schema_version": st.sampled_from(["1.0", "1.7", "2.0", 1]),
        "more": scalars,
    },
)


def as_text(headers: Headers) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in headers}


@given(events)
def test_the_decoder_takes_without_a_remark_only_what_the_schema_allows(event: dict[str, Any]) -> None:
    value = json.dumps(event).encode()
    work = make_work(value)
    DECODER.decode([work])
    if work.rejection is None and not work.invalid_fields:
        EVENT.validate(event)
    for name in work.invalid_fields:
        with pytest.raises(jsonschema.ValidationError):
            if name == "created_at" and isinstance(event[name], str):
                raise jsonschema.ValidationError("formats are not part of the vocabulary")
            EVENT.evolve(schema=DOCUMENTS["review-event.json"]["properties"][name]).validate(event[name])


@given(st.floats(0, 1), st.booleans(), st.sampled_from([200, 800, 10_000]), headers())
def test_results_are_what_the_schema_says(positive: float, include: bool, limit: int, own: Headers) -> None:
    work = make_labelled(positive, value=b'{"review_id": 7, "text": "' + b"x" * 300 + b'"}', headers=own)
    written = ResultWriter("out", TopicInfo(4, limit, "delete"), "w-1", include_review=include).write(work)
    if isinstance(written, Outgoing):
        RESULT.validate(json.loads(written.value or b""))
        RESULT_HEADERS.validate(as_text(written.headers[len(own) :]))
    else:
        assert limit == 200


@given(st.sampled_from(RejectReason), st.integers(0, 400), headers("review-worker-attempt"), st.integers(-1, 2**40))
def test_dead_letters_are_what_the_schema_says(reason: RejectReason, size: int, own: Headers, now: int) -> None:
    work = make_work(b"x" * size, headers=own)
    letter = DeadLetterWriter("dead", TopicInfo(4, 800, "delete"), "w-1").write(
        work, Rejection(reason, "decode", "byte 0"), now / 1000
    )
    count = int(letter.headers[-1][1] or b"")
    LETTER.validate(as_text(letter.headers[-count:]))
