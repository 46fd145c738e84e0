"""What travels through the pipeline: one record and what each stage has found out about it. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.dead_letter import RejectReason
from schemas.labeled import ModelInfo
from worker.transport.interface import Record, TopicPartition


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record goes to the dead-letter topic. `error` never holds the review's text."""

    reason: RejectReason
    stage: str
    error: str


@dataclass(slots=True, eq=False)
class Work:
    """One record on its way. Times are monotonic seconds; `epoch` is that of its partition when it was read."""

    record: Record
    partition: TopicPartition
    epoch: int
    size: int
    polled_at: float
    rejection: Rejection | None = None
    tombstone: str | None = None
    review_id: str = ""
    text: str = ""
    review: bytes = b""
    created_at: float | None = None
    invalid_fields: tuple[str, ...] = ()
    tokens: list[int] | None = None
    truncated: bool = False
    scores: dict[str, float] | None = None
    model: ModelInfo | None = None
    review_omitted: bool = False
    decoded_at: float = 0.0
    tokenized_at: float = 0.0
    taken_at: float = 0.0
    inferred_at: float = 0.0
    classified_at: float = 0.0

    @property
    def label(self) -> str:
        """The label with the highest score; there must be scores."""
        assert self.scores is not None
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def cost(self) -> int:
        """Tokens it will take of a batch's budget; rejected records and tombstones pass through for nothing."""
        return len(self.tokens) if self.tokens is not None else 0
