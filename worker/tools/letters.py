"""Dead letters as the tools see them: what one says, which are chosen, which still wait. Knows no client."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.dead_letter import DeadLetterInfo, RejectReason, replay_headers, unwrap
from schemas.headers import Headers, parse_source
from worker.sizes import batch_bytes
from worker.transport.interface import Record

MAXIMUM_ATTEMPTS = 3
NOTE_CHARACTERS = 3500  # Kafka keeps 4096 bytes beside an offset (offset.metadata.max.bytes)


@dataclass(frozen=True)
class Letter:
    """A record of the dead-letter topic: the original's `own` headers and what was wrong with it."""

    record: Record
    own: Headers
    info: DeadLetterInfo
    source: tuple[str, int, int]

    @classmethod
    def read(cls, record: Record) -> Letter:
        """ValueError where the record is no dead letter of ours."""
        own, info = unwrap(record.headers)
        return cls(record, own, info, parse_source(info.source.encode()))

    @property
    def name(self) -> str:
        """Its place in the dead-letter topic."""
        return f"{self.record.partition}-{self.record.offset}"

    def restored_headers(self) -> Headers:
        """Headers to replay it with: the original's, then how many attempts it has behind it."""
        return replay_headers(self.record.key, self.record.value, self.own, self.info.attempt)


class Refusal(StrEnum):
    """Why a letter is not replayed."""

    ATTEMPTS = "attempts"
    VALUE_OMITTED = "value_omitted"
    TOO_LARGE = "too_large"
    NOT_A_DEAD_LETTER = "not_a_dead_letter"

    @property
    def explanation(self) -> str:
        return {
            Refusal.ATTEMPTS: f"it failed more than {MAXIMUM_ATTEMPTS} times; --force sends it all the same",
            Refusal.VALUE_OMITTED: "it did not fit whole; only the topic it came from may still hold it",
            Refusal.TOO_LARGE: "it is larger than a message of the topic may be",
            Refusal.NOT_A_DEAD_LETTER: "it is no dead letter of a review-worker",
        }[self]

    @property
    def final(self) -> bool:
        """Whether no other run could ever replay it."""
        return self in (Refusal.VALUE_OMITTED, Refusal.NOT_A_DEAD_LETTER)


def refusal(letter: Letter, limit: int, *, force: bool) -> Refusal | None:
    """Whether the letter must not go to a topic that takes messages of `limit` bytes, and why."""
    if letter.info.value_omitted:
        return Refusal.VALUE_OMITTED
    if letter.info.attempt > MAXIMUM_ATTEMPTS and not force:
        return Refusal.ATTEMPTS
    if batch_bytes(letter.record.key, letter.record.value, letter.restored_headers()) > limit:
        return Refusal.TOO_LARGE
    return None


@dataclass(frozen=True)
class Choice:
    """Which letters a person asked for: of one reason, failed at `since` or later, and before `until`."""

    reason: RejectReason | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __contains__(self, letter: Letter) -> bool:
        info = letter.info
        return (
            (self.reason is None or info.reason == self.reason)
            and (self.since is None or info.failed_at >= self.since)
            and (self.until is None or info.failed_at < self.until)
        )


class Progress:
    """Which letters of one partition still wait to be replayed.

    Kept as a committed offset, below which none waits, and a note beside it: how far the letters were looked at, and
    as a bit for each which of those wait, because they were not chosen or were refused. So a later run with another
    choice finds them, and no run replays one twice. Without its note, or with one that had to be cut short, progress
    errs towards repeating.
    """

    def __init__(self, offset: int = 0, note: str = "") -> None:
        """As committed. A note of someone else is ignored."""
        self.seen, self._waiting = offset, set[int]()
        end, _, bits = note.partition(":")
        try:
            packed = zlib.decompress(base64.b85decode(bits)) if end else b""
            seen = int(end or offset)
        except (ValueError, zlib.error):
            return
        self.seen = seen
        self._waiting = {offset + at for at in range(len(packed) * 8) if packed[at >> 3] >> (at & 7) & 1}

    def forget_below(self, offset: int) -> None:
        """The topic holds nothing below any more (retention)."""
        self.seen = max(self.seen, offset)
        self._waiting = {at for at in self._waiting if at >= offset}

    def waits(self, offset: int) -> bool:
        return offset >= self.seen or offset in self._waiting

    def look(self, offset: int) -> None:
        """This letter was read; it waits until it is settled."""
        if offset >= self.seen:
            self._waiting.add(offset)
            self.seen = offset + 1

    def settle(self, offset: int) -> None:
        """This letter was replayed, or never can be."""
        self._waiting.discard(offset)

    def reach(self, offset: int) -> None:
        """Everything below was read: what was not among it does not exist (transaction markers)."""
        self.seen = max(self.seen, offset)

    def to_commit(self) -> tuple[int, str]:
        """Offset and note; letters that find no room in the note count as not looked at."""
        offset, seen = min(self._waiting, default=self.seen), self.seen
        while True:
            bits = bytearray((seen - offset + 7) // 8)
            for at in self._waiting:
                if at < seen:
                    bits[(at - offset) >> 3] |= 1 << ((at - offset) & 7)
            note = f"{seen}:{base64.b85encode(zlib.compress(bytes(bits), 9)).decode()}" if bits else ""
            if len(note) <= NOTE_CHARACTERS:
                return offset, note
            seen = offset + (seen - offset) // 2
