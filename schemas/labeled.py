"""The labelled review: what a worker puts on the output topic. Knows nothing of how labels are found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from schemas import SCHEMA_VERSION


class ModelInfo(BaseModel):
    """Which checkpoint gave the label."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(description="Name of the model in its store.")]
    version: Annotated[str, Field(description="Checkpoint version, such as v0003.")]
    digest: Annotated[str, Field(description="sha256 of the weights, hexadecimal.")]


class SourceInfo(BaseModel):
    """Coordinates of the input record."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    timestamp: Annotated[int, Field(description="Timestamp of the input record, milliseconds since 1970.")]


class LabeledReview(BaseModel):
    """One labelled review. `review` is the input's own JSON, spliced in byte for byte."""

    model_config = ConfigDict(frozen=True)

    review_id: str
    label: Annotated[str, Field(description="The label with the highest probability.")]
    score: Annotated[float, Field(ge=0, le=1, description="Probability of that label.")]
    scores: Annotated[dict[str, float], Field(description="Probability of every label.")]
    model: ModelInfo
    source: SourceInfo
    classified_at: Annotated[datetime, Field(description="When the label was found, RFC 3339.")]
    token_count: Annotated[int, Field(ge=0, description="Tokens that the model read.")]
    truncated: Annotated[bool, Field(description="True where the text was longer than the model reads.")]
    schema_version: str = SCHEMA_VERSION
    review_omitted: Annotated[
        bool | None, Field(description="True where the result was too large for the topic with the review in it.")
    ] = None
    review: Annotated[
        Any, Field(description="The input event as it came; absent when left out by setting or size.")
    ] = None


def splice_review(result: bytes, review: bytes) -> bytes:
    """`result`, a serialised LabeledReview without `review`, with `review` (JSON bytes) as its last member."""
    return result[:-1] + b',"review":' + review + b"}"
