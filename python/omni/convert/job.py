"""A whole conversion: which files, from which tensors, in which order."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.convert.audio import plan_audio
from omni.convert.checkpoint import Checkpoint, TensorSource
from omni.convert.config import (
    AudioSizes,
    LlmSizes,
    SharedSizes,
    SliceSizes,
    TtsSizes,
    VisionSizes,
    read_config,
    read_sizes,
    section,
)
from omni.convert.llm import plan_llm, window_metadata
from omni.convert.plan import FilePlan, Source, check_sources
from omni.convert.token2wav_assets import ASSETS, plan_published_token2wav, plan_token2wav
from omni.convert.tokenizer import Tokenizer, load_tokenizer
from omni.convert.tts import check_tts_config, plan_projector, plan_tts, vocabulary_size
from omni.convert.vision import plan_vision
from omni.convert.weight_norm import MergedWeights
from omni.convert.weight_types import find_mix, side_type
from omni.convert.writer import Progress, is_complete, write_file
from omni.errors import FormatError, InvalidArgumentError, ModelFileError
from omni.model_files import PROJECTOR_PATH, llm_path, side_path

# Which part of the model a tensor of the checkpoint belongs to, by the first piece of its name.
_OWNERS = {
    "llm": "llm",
    "vpm": "vision",
    "resampler": "vision",
    "apm": "audio",
    "audio_projection_layer": "audio",
    "tts": "tts",
}

# Parts whose weight type can be chosen.
TYPED_PARTS = ("llm", "vision", "audio", "tts")

GENERAL_NAME = "MiniCPM-o 4.5"


@dataclass(frozen=True)
class Options:
    """What to convert to. Types as in the GGUF names, e.g. "Q4_K_M" for `llm` and "F16" for the others."""

    llm: str = "Q4_K_M"
    vision: str = "F16"
    audio: str = "F16"
    tts: str = "F16"
    only: frozenset[str] | None = None  # parts; None means all that there are
    token2wav: Path | None = None  # folder of flow.pt and the others; None: assets/token2wav

    @classmethod
    def uniform(cls, type_name: str, only: frozenset[str] | None = None) -> Options:
        """One type for every part: "F32" keeps all numbers of the checkpoint."""
        return cls(llm=type_name, vision=type_name, audio=type_name, tts=type_name, only=only)


@dataclass(frozen=True)
class FileJob:
    """One file to write and where its tensors come from (None in a dry run without weights)."""

    plan: FilePlan
    source: TensorSource | None


@dataclass(frozen=True)
class _Inputs:
    directory: Path
    config: dict[str, Any]
    checkpoint: TensorSource | None
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
    inputs = _Inputs(
        directory, config, MergedWeights(Checkpoint(directory)) if with_weights else None, options
    )
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
    where = str(inputs.directory / "config.json")
    sizes = read_sizes(LlmSizes, inputs.config, where)
    window = window_metadata(section(inputs.config, "duplex_config", where), where)
    quant = inputs.options.llm.upper()
    find_mix(quant)
    tokenizer = _tokenizer(inputs, sizes.vocab_size)
    plan = plan_llm(sizes, quant, tokenizer, GENERAL_NAME, llm_path(quant), window)
    _check(inputs, "llm", [plan])
    return [FileJob(plan, inputs.checkpoint)]


def _tokenizer(inputs: _Inputs, vocab_size: int) -> Tokenizer | None:
    """None in a dry run from a config alone."""
    if inputs.checkpoint is None and not (inputs.directory / "tokenizer_config.json").exists():
        return None
    return load_tokenizer(inputs.directory, vocab_size)


def _plan_vision(inputs: _Inputs) -> list[FileJob]:
    where = str(inputs.directory / "config.json")
    sizes = read_sizes(VisionSizes, section(inputs.config, "vision_config", where), where)
    shared = read_sizes(SharedSizes, inputs.config, where)
    slices = read_sizes(SliceSizes, section(inputs.config, "slice_config", where), where)
    running, spare = _vision_layers(inputs, sizes.num_hidden_layers)
    sizes = dataclasses.replace(sizes, num_hidden_layers=running)
    kind = side_type(inputs.options.vision)
    path = side_path("vision", kind)
    width, side = shared.hidden_size, slices.scale_resolution
    plan = plan_vision(sizes, width, shared.query_num, side, kind, path, spare)
    _check(inputs, "vision", [plan])
    return [FileJob(plan, inputs.checkpoint)]


def _vision_layers(inputs: _Inputs, configured: int) -> tuple[int, int]:
    """How many layers run, and how many more the checkpoint holds.

    The published code builds the configured layers, removes the last one if the config says so, and only then
    loads the weights: a checkpoint holds the running layers or one more.
    """
    if inputs.checkpoint is None:
        return configured, 0
    prefix = "vpm.encoder.layers."
    numbers = {
        name[len(prefix) :].split(".")[0] for name in inputs.checkpoint.shapes() if name.startswith(prefix)
    }
    present = len(numbers)
    drop = inputs.config.get("drop_vision_last_layer")
    running = min(present, configured) if drop is None else configured - bool(drop)
    if not running <= present <= running + 1:
        raise FormatError(
            f"{inputs.directory}: the checkpoint has {present} vision layers, config.json asks for {running}"
        )
    return running, present - running


def _plan_audio(inputs: _Inputs) -> list[FileJob]:
    where = str(inputs.directory / "config.json")
    sizes = read_sizes(AudioSizes, section(inputs.config, "audio_config", where), where)
    shared = read_sizes(SharedSizes, inputs.config, where)
    kind = side_type(inputs.options.audio)
    plan = plan_audio(sizes, shared.hidden_size, shared.audio_pool_step, kind, side_path("audio", kind))
    _check(inputs, "audio", [plan])
    return [FileJob(plan, inputs.checkpoint)]


def _plan_tts(inputs: _Inputs) -> list[FileJob]:
    where = str(inputs.directory / "config.json")
    settings = section(inputs.config, "tts_config", where)
    check_tts_config(settings, where)
    sizes = read_sizes(TtsSizes, settings, where)
    width = read_sizes(SharedSizes, inputs.config, where).hidden_size
    tokenizer = _tokenizer(inputs, vocabulary_size(sizes))
    kind = side_type(inputs.options.tts)
    plans = [
        plan_tts(sizes, width, tokenizer, kind, f"{GENERAL_NAME} speech", side_path("tts", kind)),
        plan_projector(sizes, width, PROJECTOR_PATH),
    ]
    _check(inputs, "tts", plans)
    return [FileJob(plan, inputs.checkpoint) for plan in plans]


def _plan_token2wav(inputs: _Inputs) -> list[FileJob]:
    chosen, only = inputs.options.token2wav, inputs.options.only
    folder = chosen or inputs.directory / ASSETS
    if folder.is_dir():
        return [FileJob(plan, source) for plan, source in plan_token2wav(folder)]
    if inputs.checkpoint is None:
        return [FileJob(plan, source) for plan, source in plan_published_token2wav()]
    if chosen is not None or (only is not None and "token2wav" in only):
        raise ModelFileError(f"{folder}: is missing; it holds flow.pt, hift.pt and the two .onnx files")
    warnings.warn(f"{folder} is missing: the model will not be able to speak", stacklevel=2)
    return []


PARTS: dict[str, Callable[[_Inputs], list[FileJob]]] = {
    "llm": _plan_llm,
    "vision": _plan_vision,
    "audio": _plan_audio,
    "tts": _plan_tts,
    "token2wav": _plan_token2wav,
}
