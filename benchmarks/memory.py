"""Peak memory: of this process and all its children, or of one piece of work in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import psutil


class PeakMemory:
    """Largest sum of proportional set sizes, sampled every two seconds; shared pages count once.

    Args:
        kept: file that keeps the peak, so that work that was interrupted and continued reports that of all its parts.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self.peak_gib = float(kept.read_text()) if kept is not None and kept.exists() else 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(2.0):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            if total / 2**30 > self.peak_gib:
                self.peak_gib = total / 2**30
                if self._kept is not None:
                    self._kept.write_text(f"{self.peak_gib}\n", encoding="utf-8")


def resident_bytes_of(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes of this process that were resident before a piece of work, and the most while it ran; of Linux.

    The kernel keeps the peak, so nothing between two samples is missed. Call it in a process that has done nothing but
    what the work needs: memory that was freed and is used again would not show.
    """
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status_bytes("VmRSS")
    work()
    return before, _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
