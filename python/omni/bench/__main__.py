"""`python -m omni.bench`: how fast each stage runs here, beside this machine's own peaks."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import omni
from omni import _ext
from omni.bench import Peaks, Row, Work, llm, measure, speech, table, vision
from omni.command import run_command
from omni.errors import InvalidArgumentError
from omni.model_files import find_model_files
from omni.options import add_options, device_of

_OPTIONS = (
    "model", "quant", "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
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


def _language_model(args: argparse.Namespace, peaks: Peaks) -> Iterator[Work]:
    options: dict[str, Any] = {
        "n_ctx": args.ctx_size,
        "n_threads": args.threads,
        "n_batch": args.batch_size,
        "device": device_of(args),
        "kv_type": args.kv_type,
    }
    if args.synthetic:
        model = omni.LanguageModel.synthetic(args.llm, args.layers, **options)
    else:
        model = omni.LanguageModel(find_model_files(args.model, args.quant).llm, **options)
    info = model.info
    print(
        f"language model: {info.n_layers} layers, {info.parameters / 1e9:.2f} B parameters, mostly "
        f"{info.matrix_type}, on {model.device_name}; {info.copied_bytes / 1e9:.2f} GB repacked or converted",
        file=sys.stderr,
    )
    return llm.works(model, peaks, args.past)


def _speech_model(args: argparse.Namespace, peaks: Peaks) -> Iterator[Work]:
    options: dict[str, Any] = {"n_threads": args.threads, "device": device_of(args), "kv_type": args.kv_type}
    if args.synthetic:
        layers = min(args.layers, speech.LAYERS)
        model = omni.SpeechModel.synthetic(layers=layers, **options)
    else:
        files = find_model_files(args.model, args.quant)
        if files.tts is None:
            raise InvalidArgumentError(f"{files.directory}: there is no speech model")
        model = omni.SpeechModel(files.tts, files.projector, **options)
    info = model.info
    print(
        f"speech model: {info.n_layers} layers, {info.matrix_parameters / 1e6:.0f} M parameters, mostly "
        f"{info.matrix_type}, on {model.device_name}",
        file=sys.stderr,
    )
    return speech.works(model, peaks, args.past)


def _vision_encoder(args: argparse.Namespace, peaks: Peaks) -> Iterator[Work]:
    options: dict[str, Any] = {
        "n_threads": args.threads,
        "device": device_of(args),
        "weight_format": args.weight_format,
    }
    if args.synthetic:
        encoder = omni.VisionEncoder.synthetic(layers=min(args.layers, vision.LAYERS), **options)
    else:
        file = find_model_files(args.model, args.quant).vision
        if file is None:
            raise InvalidArgumentError(f"{args.model} has no vision file")
        encoder = omni.VisionEncoder(file, **options)
    info = encoder.info
    print(
        f"vision encoder: {info.n_layers} layers, {info.parameters / 1e6:.0f} M parameters, held mostly as "
        f"{info.matrix_type}, on {encoder.device_name}",
        file=sys.stderr,
    )
    return vision.works(encoder, peaks)


# Stages by name, in the order of a run; each opens its network only when it is its turn.
_STAGES: Mapping[str, Callable[[argparse.Namespace, Peaks], Iterator[Work]]] = {
    "llm": _language_model,
    "vision": _vision_encoder,
    "speech": _speech_model,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.bench",
        description="Time each stage and hold it against what this machine can do at most: arithmetic for "
        "the weights' type, and reading memory.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"stages to measure: {', '.join(_STAGES)} (default: all)"
    )
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if not args.synthetic and not args.model:
        raise InvalidArgumentError("give a model with -m, or --synthetic minicpm-o-4.5")
    for stage in args.stages:
        if stage not in _STAGES:
            raise InvalidArgumentError(f"there is no stage '{stage}'; there are {', '.join(_STAGES)}")
    threads = args.threads or omni.default_threads()
    machine = Machine(_processor_name(), threads, omni.cpu_features(), _ext.measure_peaks(threads))
    print(machine, file=sys.stderr)

    def rows() -> Iterator[Row]:
        for stage in args.stages or _STAGES:
            for work in _STAGES[stage](args, machine.peaks):
                yield measure(work, machine.peaks, args.repeats, args.seconds)

    if args.json:
        print(json.dumps({"machine": machine.as_dict(), "rows": [row.as_dict() for row in rows()]}))
        return
    for line in table(rows()):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
