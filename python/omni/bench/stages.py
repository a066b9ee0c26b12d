"""The stages that `omni.bench` measures: each opens its network, says what it is, and lists its work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import omni
from omni.bench import Peaks, Work, audio, llm, speech, spoken, token2wav, unit, vision
from omni.errors import InvalidArgumentError
from omni.model_files import PARTS, ModelFiles
from omni.options import device_of, model_of


class MissingPartError(InvalidArgumentError):
    """The model directory has no file for a stage."""


# Which part of a model a stage needs beside the language model.
_NEEDS = {
    "vision": ("vision",),
    "audio": ("audio",),
    "speech": ("speech",),
    "token2wav": ("speech",),
    "spoken": ("speech",),
    "unit": PARTS,
}


def _files(args: argparse.Namespace) -> ModelFiles:
    return model_of(args, {part for stage in args.stages or [UNIT] for part in _NEEDS.get(stage, ())})


def _part(args: argparse.Namespace, part: str) -> Path:
    files = _files(args)
    file: Path | None = getattr(files, part)
    if file is None:
        raise MissingPartError(f"{files.directory} has no {part} file")
    return file


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"n_threads": args.threads, "device": device_of(args), "weight_format": args.weight_format}


def _say(what: str, info: Any, device: str) -> None:
    print(
        f"{what}: {info.n_layers} layers, {info.parameters / 1e6:.0f} M parameters, held mostly as "
        f"{info.matrix_type}, on {device}; {info.copied_bytes / 1e9:.2f} GB repacked or converted",
        file=sys.stderr,
    )


def _open_llm(args: argparse.Namespace) -> omni.LanguageModel:
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
        model = omni.LanguageModel(_part(args, "llm"), **options)
    _say("language model", model.info, model.device_name)
    return model


def _open_vision(args: argparse.Namespace) -> omni.VisionEncoder:
    if args.synthetic:
        encoder = omni.VisionEncoder.synthetic(layers=min(args.layers, vision.LAYERS), **_options(args))
    else:
        encoder = omni.VisionEncoder(_part(args, "vision"), **_options(args))
    _say("vision encoder", encoder.info, encoder.device_name)
    return encoder


def _open_audio(args: argparse.Namespace) -> omni.AudioEncoder:
    if args.synthetic:
        encoder = omni.AudioEncoder.synthetic(layers=min(args.layers, audio.LAYERS), **_options(args))
    else:
        encoder = omni.AudioEncoder(_part(args, "audio"), **_options(args))
    _say("audio encoder", encoder.info, encoder.device_name)
    return encoder


def _open_speech(args: argparse.Namespace) -> omni.SpeechModel:
    options = _options(args) | {"kv_type": args.kv_type}
    if args.synthetic:
        model = omni.SpeechModel.synthetic(layers=min(args.layers, speech.LAYERS), **options)
    else:
        model = omni.SpeechModel(_part(args, "tts"), _files(args).projector, **options)
    _say("speech model", model.info, model.device_name)
    return model


def _open_token2wav(args: argparse.Namespace) -> omni.Token2Wav:
    if args.synthetic:
        model = omni.Token2Wav.synthetic(**_options(args))
    else:
        model = omni.Token2Wav(_part(args, "token2wav"), **_options(args))
    info = model.info
    print(
        f"token2wav: {info.parameters / 1e6:.0f} M parameters, the flow's held mostly as {info.matrix_type}",
        file=sys.stderr,
    )
    return model


def measure_units(args: argparse.Namespace) -> list[unit.UnitRow]:
    """Whole units. Only the language model may have fewer layers than it should; it is scaled up then."""
    whole = argparse.Namespace(**{**vars(args), "layers": unit.LAYERS})
    networks = unit.Networks(
        llm=_open_llm(args),
        audio=_open_audio(whole),
        vision=_open_vision(whole),
        speech=_open_speech(whole),
        token2wav=_open_token2wav(whole),
    )
    layers = networks.llm.info.n_layers
    if args.synthetic and layers < unit.LAYERS:
        print(
            f"times of the language model's {layers} layers are scaled to {unit.LAYERS}, "
            "the output matrix is not",
            file=sys.stderr,
        )
    return unit.unit_rows(
        networks,
        args.repeats,
        args.seconds,
        past=args.past,
        steps=args.flow_steps,
        full_layers=unit.LAYERS if args.synthetic else None,
    )


# Stages by name, in the order of a run; each opens its network only when it is its turn.
STAGES: Mapping[str, Callable[[argparse.Namespace, Peaks], Iterator[Work]]] = {
    "llm": lambda args, peaks: llm.works(_open_llm(args), peaks, args.past),
    "vision": lambda args, peaks: vision.works(_open_vision(args), peaks),
    "audio": lambda args, peaks: audio.works(_open_audio(args), peaks),
    "speech": lambda args, peaks: speech.works(_open_speech(args), peaks, args.past),
    "token2wav": lambda args, peaks: token2wav.works(_open_token2wav(args), peaks),
    "spoken": lambda args, peaks: spoken.works(_open_speech(args), _open_token2wav(args), peaks),
}
# All of them together; not a stage of its own.
UNIT = "unit"
