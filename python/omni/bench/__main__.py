"""`python -m omni.bench`: how fast each stage runs here, beside this machine's own peaks."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import omni
from omni import _ext
from omni.bench import Peaks, Row, measure, table
from omni.bench.stages import STAGES, MissingPartError
from omni.command import run_command
from omni.errors import InvalidArgumentError
from omni.options import MODEL_OPTIONS, add_options

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
    "weight_format", "synthetic", "llm", "layers", "repeats", "seconds", "past", "json", "verbose",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on. Peaks in 10^9 operations or bytes a second."""

    processor: str
    threads: int
    features: list[str]
    peaks: Peaks

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


def _processor_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.bench",
        description="Time each stage and hold it against what this machine can do at most: arithmetic for "
        "the weights' type, and reading memory.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"stages to measure: {', '.join(STAGES)} (default: all)"
    )
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if not args.synthetic and not args.model and not args.hf_repo:
        raise InvalidArgumentError("give a model with -m or -hf, or --synthetic minicpm-o-4.5")
    for stage in args.stages:
        if stage not in STAGES:
            raise InvalidArgumentError(f"there is no stage '{stage}'; there are {', '.join(STAGES)}")
    threads = args.threads or omni.default_threads()
    machine = Machine(_processor_name(), threads, omni.cpu_features(), _ext.measure_peaks(threads))
    print(machine, file=sys.stderr)

    def rows() -> Iterator[Row]:
        for stage in args.stages or STAGES:
            try:
                works = STAGES[stage](args, machine.peaks)
            except MissingPartError as error:
                if args.stages:
                    raise
                print(f"{stage}: left out, {error}", file=sys.stderr)
                continue
            for work in works:
                yield measure(work, machine.peaks, args.repeats, args.seconds)

    if args.json:
        print(json.dumps({"machine": machine.as_dict(), "rows": [row.as_dict() for row in rows()]}))
        return
    for line in table(rows()):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
