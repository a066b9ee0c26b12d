"""What measurements were made on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import omni
from omni import _ext
from omni.bench import Peaks


@dataclass(frozen=True)
class Machine:
    """The processor and what it does at most. Peaks in 10^9 operations or bytes a second."""

    processor: str
    threads: int
    features: list[str]
    peaks: Peaks

    @classmethod
    def measure(cls, threads: int | None) -> Machine:
        """This machine with so many threads, None: one a core; takes about a second."""
        threads = threads or omni.default_threads()
        return cls(processor_name(), threads, omni.cpu_features(), _ext.measure_peaks(threads))

    def as_dict(self) -> dict[str, Any]:
        """The machine for `--json`."""
        peaks = {name: getattr(self.peaks, name) for name in ("f32", "bf16", "int8", "memory_read")}
        return {
            "processor": self.processor,
            "threads": self.threads,
            "features": self.features,
            "peaks": peaks,
        }

    def __str__(self) -> str:
        p = self.peaks
        return (
            f"{self.processor}, {self.threads} threads; peaks: int8 {p.int8:.0f}, bf16 {p.bf16:.0f}, "
            f"f32 {p.f32:.0f} GFLOP/s, memory {p.memory_read:.0f} GB/s"
        )


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
