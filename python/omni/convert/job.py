"""A whole conversion: which files, from which tensors, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.convert.checkpoint import Checkpoint, TensorSource
from omni.convert.config import LlmSizes, read_config, read_sizes
from omni.convert.llm import plan_llm
from omni.convert.plan import FilePlan, Source, check_sources
from omni.convert.tokenizer import load_tokenizer
from omni.convert.weight_types import find_mix
from omni.convert.writer import Progress, is_complete, write_file
from omni.errors import FormatError, InvalidArgumentError
from omni.model_files import llm_path

# Which part of the model a tensor of the checkpoint belongs to, by the first piece of its name.
_OWNERS = {
    "llm": "llm",
    "vpm": "vision",
    "resampler": "vision",
    "apm": "audio",
    "audio_projection_layer": "audio",
    "tts": "tts",
}

GENERAL_NAME = "MiniCPM-o 4.5"


@dataclass(frozen=True)
class Options:
    """What to convert to. Types as in the GGUF names, e.g. "Q4_K_M" for `llm` and "F16" for the others."""

    llm: str = "Q4_K_M"
    only: frozenset[str] | None = None  # parts; None means all that there are


@dataclass(frozen=True)
class FileJob:
    """One file to write and where its tensors come from (None in a dry run without weights)."""

    plan: FilePlan
    source: TensorSource | None


@dataclass(frozen=True)
class _Inputs:
    directory: Path
    config: dict[str, Any]
    checkpoint: Checkpoint | None
    options: Options


def plan_conversion(directory: Path, options: Options, need_weights: bool = True) -> list[FileJob]:
    """Plans all files and checks every tensor of the checkpoint against them.

    With `need_weights` false a directory that holds only config.json will do. Raises FormatError or
    ModelFileError for unusable checkpoints.
    """
    unknown = (options.only or frozenset()) - set(PARTS)
    if unknown:
        raise InvalidArgumentError(f"there is no part '{min(unknown)}'; choose from {', '.join(PARTS)}")
    config = read_config(directory)
    with_weights = need_weights or Checkpoint.exists(directory)
    inputs = _Inputs(directory, config, Checkpoint(directory) if with_weights else None, options)
    jobs = []
    for part, plan in PARTS.items():
        if options.only is None or part in options.only:
            jobs += plan(inputs)
    return jobs


def run_job(job: FileJob, out_dir: Path, force: bool = False, progress: Progress | None = None) -> bool:
    """Writes one file; returns False if it was there, complete, and `force` is off."""
    if job.source is None:
        raise InvalidArgumentError(f"{job.plan.path}: there are no weights to convert")
    if not force and is_complete(job.plan, out_dir):
        if progress is not None:
            progress(job.plan.tensor_size())
        return False
    write_file(job.plan, job.source, out_dir, progress)
    return True


def convert(
    directory: str | Path, out_dir: str | Path, options: Options | None = None, force: bool = False
) -> list[Path]:
    """Converts a checkpoint directory to a model directory and returns the files' paths."""
    out = Path(out_dir)
    jobs = plan_conversion(Path(directory), options or Options())
    for job in jobs:
        run_job(job, out, force)
    return [out / job.plan.path for job in jobs]


def _check(inputs: _Inputs, part: str, plans: list[FilePlan]) -> None:
    """Every tensor of this part must be known, and everything known must be there."""
    if inputs.checkpoint is None:
        return
    shapes = inputs.checkpoint.shapes()
    strangers = [name for name in shapes if name.split(".")[0] not in _OWNERS]
    if strangers:
        raise FormatError(f"{inputs.directory}: unknown tensors: {', '.join(strangers[:8])}")
    known: dict[str, Source] = {}
    for plan in plans:
        known |= plan.sources()
    found = {name: shape for name, shape in shapes.items() if _OWNERS[name.split(".")[0]] == part}
    check_sources(known, found, f"{inputs.directory} ({part})")


def _plan_llm(inputs: _Inputs) -> list[FileJob]:
    sizes = read_sizes(LlmSizes, inputs.config, str(inputs.directory / "config.json"))
    quant = inputs.options.llm.upper()
    find_mix(quant)
    has_tokenizer = inputs.checkpoint is not None or (inputs.directory / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(inputs.directory, sizes.vocab_size) if has_tokenizer else None
    plan = plan_llm(sizes, quant, tokenizer, GENERAL_NAME, llm_path(quant))
    _check(inputs, "llm", [plan])
    return [FileJob(plan, inputs.checkpoint)]


PARTS: dict[str, Callable[[_Inputs], list[FileJob]]] = {
    "llm": _plan_llm,
}
