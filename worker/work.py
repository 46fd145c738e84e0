"""What travels through the pipeline: one record and what each stage has found out about it. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.dead_letter import RejectReason
from worker.transport.interface import Record, TopicPartition

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
    probabilities: npt.NDArray[np.float32] | None = None
    label: int = -1
    review_omitted: bool = False
    decoded_at: float = 0.0
    tokenized_at: float = 0.0
    taken_at: float = 0.0
    inferred_at: float = 0.0
    classified_at: float = 0.0

    @property
    def cost(self) -> int:
        """Tokens it will take of a batch's budget; rejected records and tombstones pass through for nothing."""
        return len(self.tokens) if self.tokens is not None else 0
