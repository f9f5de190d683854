"""Peak memory of this process and all its children."""

from __future__ import annotations

import threading
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
