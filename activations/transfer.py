"""Rows on their way from the device to the host, while the device goes on computing.

On a GPU the copies run on a stream of their own into pinned memory; the consumer waits for them, which may be
another thread. On the CPU a row is written straight to where it stays.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Transfer:
    """The copies of one forward pass."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: list[torch.cuda.Event] = []

    def room(self, shape: tuple[int, ...], like: torch.Tensor) -> Tensor:
        """Host memory to copy into, pinned where copies are asynchronous."""
        return torch.empty(shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")

    def copy(self, rows: Tensor, into: Tensor) -> None:
        """Sends rows to the host; ``rows`` must not be written to again."""
        if rows.device.type != "cuda":
            into.copy_(rows)
            return
        # One stream a device, kept: the allocator reuses memory stream by stream
        if rows.device not in _SIDE:
            _SIDE[rows.device] = torch.cuda.Stream(rows.device)
        stream = self._streams.setdefault(rows.device, _SIDE[rows.device])
        stream.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(stream):
            into.copy_(rows, non_blocking=True)
        rows.record_stream(stream)  # the memory may not be given away before the copy has read it

    def seal(self) -> None:
        """No copy follows: notes what ``wait`` waits for."""
        self._events = [stream.record_event() for stream in self._streams.values()]

    def wait(self) -> None:
        """Returns when every row has arrived. May be called from another thread."""
        for event in self._events:
            event.synchronize()


_SIDE: dict[torch.device, torch.cuda.Stream] = {}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or the host, had no memory left for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "backend out of memory" in text)


def release_memory() -> None:
    """Gives unused device memory back, so that smaller pieces find room."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
