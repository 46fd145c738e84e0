"""Where reading begins: the rules for a group's first start, for a new partition and for an offset out of range.

Knows no client: it asks whatever can look up offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Literal, Protocol

from worker.transport.interface import Offsets, TopicPartition, TransportFault

Start = Literal["earliest", "latest"] | datetime


class TopicOffsets(Protocol):
    """What must be known of topics."""

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets: ...

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        """First offset not yet readable (read committed)."""

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        """Offset of the first record at or after this time (milliseconds); only those that have one."""


class OffsetLookup(TopicOffsets, Protocol):
    """What the rules must know of topics and of the group."""

    def partitions(self, topic: str) -> Collection[TopicPartition]: ...

    def committed(self, partitions: Collection[TopicPartition]) -> Offsets:
        """Only those that have a committed offset."""


def offsets_at(start: Start, partitions: Collection[TopicPartition], lookup: TopicOffsets) -> Offsets:
    """The offsets that `earliest`, `latest` or a time stands for; a time later than every record is the end."""
    if start == "earliest":
        return lookup.beginning(partitions)
    if isinstance(start, datetime):
        return {**lookup.end(partitions), **lookup.at_time(partitions, int(start.timestamp() * 1000))}
    return lookup.end(partitions)


def starting_offsets(
    owned: Iterable[TopicPartition], start: Start, lookup: OffsetLookup, commit: Callable[[Offsets], None]
) -> Offsets:
    """Where to read each of `owned` from: its committed offset, or what the rules of the start say.

    A topic of which the group has committed nothing is started at `start`, and that is committed at once for all its
    partitions: otherwise another member, starting at the same time, would take the rest for new. Where some are
    committed, one that is not is new and starts at its beginning.
    """
    owned = list(owned)
    result: dict[TopicPartition, int] = {}
    for topic in sorted({tp.topic for tp in owned}):
        mine = [tp for tp in owned if tp.topic == topic]
        everywhere = sorted({*lookup.partitions(topic), *mine})
        committed = lookup.committed(everywhere)
        if not committed:
            chosen = offsets_at(start, everywhere, lookup)
            committed = lookup.committed(everywhere)  # asked again, so that another member's first commit is not undone
            if not committed:
                commit(chosen)
                committed = chosen
        new = [tp for tp in mine if tp not in committed]
        result.update({tp: committed[tp] for tp in mine if tp in committed})
        result.update(lookup.beginning(new) if new else {})
    return result


def out_of_range(group: str, partition: TopicPartition, offset: int, first: int, end: int) -> TransportFault:
    """The fault for a position that the topic does not hold (any more)."""
    topic, number = partition
    return TransportFault(
        f"{topic}-{number}: offset {offset} of the group {group} is out of range, the topic holds {first} to {end} "
        "(retention removed records not yet read, or the topic was made anew); choose where to go on: review-worker "
        f"offsets set --topic {topic} --partition {number} --to earliest --kafka.group_id={group} "
        "(or --to latest, an offset, a time)"
    )
