"""Measures the stages of omni beside this machine's own peaks. `python -m omni.bench --help`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from omni import _ext

Peaks = _ext.MachinePeaks


@dataclass(frozen=True)
class Row:
    """One measurement: what was run, how long it took, and what that is of the machine's peak."""

    stage: str  # llm, vision, ...
    what: str  # "prefill 64"
    ms: float  # median time of one run
    ms_min: float
    items_per_second: float  # tokens, images or seconds of sound
    real_time_factor: float | None  # time for a second of sound, below 1 if it keeps up; None without sound
    gflops: float  # 10^9 operations a second; a multiply-add counts as two
    gbytes: float  # weights read, 10^9 bytes a second
    arithmetic_share: float  # gflops of the peak for the weights' type
    memory_share: float  # gbytes of the memory's peak

    def as_dict(self) -> dict[str, Any]:
        """The row for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What one run of a stage does."""

    stage: str
    what: str
    run: Callable[[], object]
    items: float  # tokens, images or seconds of sound of one run
    operations: float
    bytes: float  # weights read
    peak: float  # 10^9 operations a second that the machine reaches for these weights
    prepare: Callable[[], object] | None = None  # called before every run, not timed
    sound: bool = False  # whether items are seconds of sound


def arithmetic_peak(peaks: Peaks, weight_type: str) -> float:
    """The peak that products with weights of a ggml type are held against, in 10^9 operations a second."""
    if weight_type in ("f32", "f16"):
        return peaks.f32  # F16 weights are multiplied in float
    if weight_type == "bf16":
        return peaks.bf16 or peaks.f32
    return peaks.int8 or peaks.f32


def durations(
    run: Callable[[], object], prepare: Callable[[], object] | None, repeats: int, seconds: float
) -> list[float]:
    """Seconds of runs: one to warm up, then `repeats`, but no longer than about `seconds` in all."""
    times: list[float] = []
    for i in range(repeats + 1):
        if prepare:
            prepare()
        start = time.perf_counter()
        run()
        elapsed = time.perf_counter() - start
        if i > 0 or elapsed > seconds:
            times.append(elapsed)
        if sum(times) > seconds:
            break
    return times


def measure(work: Work, peaks: Peaks, repeats: int, seconds: float) -> Row:
    """Run as `durations()`; the median counts."""
    times = durations(work.run, work.prepare, repeats, seconds)
    median = statistics.median(times)
    gflops = work.operations / median * 1e-9
    gbytes = work.bytes / median * 1e-9
    return Row(
        stage=work.stage,
        what=work.what,
        ms=median * 1e3,
        ms_min=min(times) * 1e3,
        items_per_second=work.items / median,
        real_time_factor=median / work.items if work.sound else None,
        gflops=gflops,
        gbytes=gbytes,
        arithmetic_share=gflops / work.peak if work.peak else 0.0,
        memory_share=gbytes / peaks.memory_read if peaks.memory_read else 0.0,
    )


def table(rows: Iterator[Row] | list[Row]) -> Iterator[str]:
    """Lines of a table for people, each as soon as its row is there."""
    head = ("stage", "what", "ms", "items/s", "RTF", "GFLOP/s", "of peak", "GB/s", "of peak")
    yield "{:<9} {:<16} {:>9} {:>9} {:>7} {:>8} {:>7} {:>6} {:>7}".format(*head)
    for row in rows:
        factor = "" if row.real_time_factor is None else f"{row.real_time_factor:.3f}"
        yield (
            f"{row.stage:<9} {row.what:<16} {row.ms:9.1f} {row.items_per_second:9.2f} {factor:>7} "
            f"{row.gflops:8.1f} {row.arithmetic_share:7.0%} {row.gbytes:6.1f} {row.memory_share:7.0%}"
        )
