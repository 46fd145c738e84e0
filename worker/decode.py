"""Bytes to review event: the only place that judges input. Knows nothing of tokens, topics or threads."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import AliasGenerator, AliasPath, ConfigDict, ValidationError

from schemas.dead_letter import RejectReason
from schemas.errors import said
from schemas.recipe import TextRecipe, render
from schemas.review import OPTIONAL_FIELDS, LenientReviewEvent, RequiredFields, ReviewEvent
from worker.configuration import ConfigurationError
from worker.settings import FieldNames, InputSettings
from worker.work import Rejection, Work

STAGE = "decode"

_FIELD_REASONS = {
    "review_id": RejectReason.INVALID_REVIEW_ID,
    "text": RejectReason.INVALID_TEXT,
    "schema_version": RejectReason.UNSUPPORTED_SCHEMA_VERSION,
}


class Decoder:
    """Fills in what the event says, or why it is rejected."""

    def __init__(self, settings: InputSettings, recipe: TextRecipe) -> None:
        """ConfigurationError where the recipe's template reads something that is no field of the event."""
        if unknown := recipe.fields - set(ReviewEvent.model_fields):
            raise ConfigurationError(
                f"the checkpoint's template reads {', '.join(sorted(unknown))}: no field of a review event"
            )
        self._recipe = recipe
        self._tombstones = settings.tombstones
        self._names = settings.fields
        self._event = _renamed(ReviewEvent, settings.fields)
        self._lenient = _renamed(LenientReviewEvent, settings.fields)

    def decode(self, batch: Iterable[Work]) -> None:
        for work in batch:
            if work.record.value is None:
                self._tombstone(work)
            else:
                self._event_of(work, work.record.value)

    def _tombstone(self, work: Work) -> None:
        if self._tombstones == "dead_letter":
            work.rejection = Rejection(RejectReason.NULL_VALUE, STAGE, "the value is null")
        else:
            work.tombstone = self._tombstones

    def _event_of(self, work: Work, value: bytes) -> None:
        # A schema registry's serialisers put a zero byte and a 4-byte schema id before the JSON.
        payload = value[5:] if value[:1] == b"\0" else value
        try:
            event, invalid_fields = self._validated(payload)
        except ValidationError as error:
            work.rejection = _rejection(error, payload, self._names)
            return
        if not _finite(payload):
            work.rejection = Rejection(RejectReason.INVALID_JSON, STAGE, "NaN or Infinity is not JSON")
            return
        work.invalid_fields = invalid_fields
        work.review = payload
        work.review_id = str(event.review_id)
        work.text = render(self._recipe, event.__dict__)
        if isinstance(event, ReviewEvent) and event.created_at is not None:
            work.created_at = event.created_at.timestamp()

    def _validated(self, payload: bytes) -> tuple[RequiredFields, tuple[str, ...]]:
        """The event, and which of its optional fields are of a wrong type."""
        try:
            return self._event.model_validate_json(payload), ()
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            fields = tuple(sorted({str(problem["loc"][0]) if problem["loc"] else "" for problem in problems}))
            if not OPTIONAL_FIELDS.issuperset(fields):
                raise
            return self._lenient.model_validate_json(payload), fields


def _renamed(event: type[RequiredFields], names: FieldNames) -> type[RequiredFields]:
    """The event model, reading fields from where `names` says; errors still name the field itself."""
    if names == FieldNames():
        return event
    paths = AliasGenerator(validation_alias=lambda field: AliasPath(*getattr(names, field).split(".")))

    class Renamed(event):  # type: ignore[misc, valid-type]
        model_config = ConfigDict(alias_generator=paths)

    return Renamed


def _finite(payload: bytes) -> bool:
    """False where the JSON holds NaN or Infinity, which pydantic's parser lets through in fields it only carries."""
    if b"NaN" not in payload and b"Infinity" not in payload:
        return True
    try:
        json.loads(payload, parse_constant=_refuse)  # the words may stand in a string, which is fine
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _rejection(error: ValidationError, payload: bytes, names: FieldNames) -> Rejection:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    for problem in problems:
        if problem["type"] == "json_invalid":
            try:
                payload.decode()
            except UnicodeDecodeError as cause:
                return Rejection(RejectReason.NOT_UTF8, STAGE, f"byte {cause.start}: {cause.reason}")
            return Rejection(RejectReason.INVALID_JSON, STAGE, problem["msg"])
        if not problem["loc"]:
            return Rejection(RejectReason.NOT_AN_OBJECT, STAGE, "the value is JSON but not an object")
        field = str(problem["loc"][0])
        if reason := _FIELD_REASONS.get(field):
            return Rejection(reason, STAGE, f"{getattr(names, field)}: {said(problem)}")
    raise AssertionError(f"unexplained rejection: {problems[0]['type']}") from error
