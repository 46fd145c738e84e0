"""Whether the worker is alive and ready, from what its threads report. Pure: the clock is an argument.

Alive is progress, not activity: an idle stage and one that waits for the broker are alive; one that has held work for
longer than its limit is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """Written by many threads, one stage each; single assignments, so no lock."""

    limits: dict[str, float]
    """Seconds a stage may hold work without progress."""
    warm: bool = False
    joined: bool = False
    draining: bool = False
    fault: str | None = None
    _busy_since: dict[str, float] = field(default_factory=dict)

    def busy(self, stage: str, now: float) -> None:
        """The stage holds work from now on, or has just got on with it."""
        self._busy_since[stage] = now

    def idle(self, stage: str) -> None:
        self._busy_since.pop(stage, None)

    def wait(self, stage: str, other: str, now: float) -> None:
        """The stage stands still for another's sake: blocked is not stuck, and has a limit of its own."""
        self._busy_since.pop(stage, None)
        self._busy_since[other] = now

    def stalled(self, now: float) -> str | None:
        """The first stage that is past its limit, in words."""
        for stage, since in list(self._busy_since.items()):
            limit = self.limits[stage.split("-")[0]]
            if now - since > limit:
                return f"stage {stage} has made no progress for {now - since:.1f} s (limit {limit:g} s)"
        return None

    @property
    def computing(self) -> bool:
        """Whether any device is at work on a batch."""
        return any(stage.startswith("infer") for stage in list(self._busy_since))

    @property
    def awaiting_broker(self) -> bool:
        """Whether a stage stands still until a broker answers."""
        return "broker" in self._busy_since

    def alive(self, now: float) -> bool:
        return self.fault is None and self.stalled(now) is None

    @property
    def ready(self) -> bool:
        """True once warm and joined, whatever the broker does; false only on drain or fault."""
        return self.warm and self.joined and not self.draining and self.fault is None
