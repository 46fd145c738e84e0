"""The review event: what a producer puts on the input topic. Knows nothing of how it is fetched or labelled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from schemas import SCHEMA_VERSION

SUPPORTED_MAJOR = SCHEMA_VERSION.split(".")[0]


def _as_text(value: str | int) -> str:
    return str(value)


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _not_blank(value: str) -> str:
    if not value or value.isspace():
        raise ValueError("must not be blank")
    return value


def _supported(version: str) -> str:
    if version.split(".")[0] != SUPPORTED_MAJOR:
        raise ValueError(f"major version must be {SUPPORTED_MAJOR}")
    return version


class RequiredFields(BaseModel):
    """The three fields that alone can reject an event. Unknown fields are carried, never read."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True, loc_by_alias=False)

    review_id: Annotated[
        str | int,
        AfterValidator(_as_text),
        AfterValidator(_not_empty),
        Field(description="Identity of the review; an integer is taken as its decimal text."),
    ]
    text: Annotated[str, AfterValidator(_not_blank), Field(description="The review itself; not blank.")]
    schema_version: Annotated[
        str,
        AfterValidator(_supported),
        Field(description="Version of this shape; readers of a major version accept all its minor versions."),
    ] = SCHEMA_VERSION


class ReviewEvent(RequiredFields):
    """One review. An optional field of a wrong type never rejects the event: it is carried as it came."""

    title: Annotated[str | None, Field(description="Headline of the review.")] = None
    rating: Annotated[float | None, Field(ge=1, le=5, description="Stars, 1 to 5.")] = None
    product_id: Annotated[str | None, Field(description="What was reviewed.")] = None
    author_id: Annotated[str | None, Field(description="Who wrote it.")] = None
    created_at: Annotated[AwareDatetime | None, Field(description="When it was written, RFC 3339.")] = None
    language: Annotated[str | None, Field(description="BCP 47 tag.")] = None


class LenientReviewEvent(RequiredFields):
    """The same event read once more after an optional field failed: whatever stands there is let through."""

    title: Any = None
    rating: Any = None
    product_id: Any = None
    author_id: Any = None
    created_at: Any = None
    language: Any = None


OPTIONAL_FIELDS = frozenset(ReviewEvent.model_fields) - frozenset(RequiredFields.model_fields)
