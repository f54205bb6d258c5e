"""What a stage asks of the model and of the disk, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One kind of work for the model.

    Attributes:
        what: in words.
        generations: rollouts written.
        written: tokens written.
        read: tokens read that were there before, padding apart.
        passes: calls of the model.
        flops: floating-point operations.
        moved: bytes of weights and cache that the calls read.
        cache: bytes of keys and values at the peak.
        live: bytes of activations at the peak.
    """

    what: str
    generations: int = 0
    written: int = 0
    read: int = 0
    passes: int = 0
    flops: int = 0
    moved: int = 0
    cache: int = 0
    live: int = 0


@dataclass(frozen=True)
class Work:
    """A stage's jobs and what it stores.

    Attributes:
        stage: its name.
        jobs: what it asks of the model.
        exact: bytes stored that the plan knows exactly, the store's own structure apart.
        about: bytes of tables and figures, estimated.
    """

    stage: str
    jobs: tuple[Job, ...] = ()
    exact: int = 0
    about: int = 0

    def total(self, name: str) -> int:
        """A count over all jobs."""
        return sum(getattr(job, name) for job in self.jobs)

    def peak(self) -> int:
        """Bytes of cache and activations at the worst moment."""
        return max((job.cache + job.live for job in self.jobs), default=0)
