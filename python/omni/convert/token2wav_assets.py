"""The token2wav folder of a checkpoint: which files it has, and the plans and sources they give."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from omni.convert.checkpoint import Floats, Shape, TensorSource
from omni.convert.onnx_file import OnnxFile
from omni.convert.plan import FilePlan, Source, check_sources
from omni.convert.token2wav import (
    FlowSizes,
    SpeakerSizes,
    SpeechTokenizerSizes,
    VocoderSizes,
    plan_flow,
    plan_speaker,
    plan_speech_tokenizer,
    plan_vocoder,
)
from omni.convert.torch_file import TorchFile
from omni.convert.weight_norm import MergedWeights
from omni.errors import FormatError, ModelFileError

ASSETS = "assets/token2wav"

_FLOW, _SPEECH_TOKENIZER, _SPEAKER = "flow.pt", "speech_tokenizer_v2_25hz.onnx", "campplus.onnx"
# The first release has one vocoder in hift.pt. Later ones have a causal vocoder under that name and the first
# one beside it.
_VOCODERS = ("hift.pt", "hift_original.pt")

Planned = list[tuple[FilePlan, TensorSource | None]]


def plan_token2wav(folder: Path) -> Planned:
    """Plans every file that the folder's contents give, each with its source.

    Raises ModelFileError for files that are missing, FormatError for damaged or unknown ones.
    """
    for name in (_FLOW, _VOCODERS[0], _SPEECH_TOKENIZER, _SPEAKER):
        if not (folder / name).is_file():
            raise ModelFileError(f"{folder / name}: is missing; speech output needs the whole folder")
    out = _plan_flow(folder / _FLOW)
    out += _plan_vocoders(folder)
    tokenizer = _Renamed(OnnxFile(folder / _SPEECH_TOKENIZER), _speech_tokenizer_name)
    sizes = SpeechTokenizerSizes.of(tokenizer.shapes(), str(folder / _SPEECH_TOKENIZER))
    out.append((plan_speech_tokenizer(sizes), tokenizer))
    speaker = OnnxFile(folder / _SPEAKER)
    out.append((plan_speaker(SpeakerSizes.of(speaker.shapes(), str(folder / _SPEAKER))), speaker))
    for (plan, source), name in zip(out[-2:], (_SPEECH_TOKENIZER, _SPEAKER), strict=True):
        assert source is not None
        # A graph also holds constants that are no weights; only what the plan knows is compared.
        known = plan.sources()
        found = {tensor: shape for tensor, shape in source.shapes().items() if tensor in known}
        check_sources(known, found, str(folder / name))
    return out


def plan_published_token2wav() -> Planned:
    """The files of the published model, without sources."""
    plans = [*plan_flow(FlowSizes()), plan_vocoder(VocoderSizes())]
    plans += [plan_speech_tokenizer(SpeechTokenizerSizes()), plan_speaker(SpeakerSizes())]
    return [(plan, None) for plan in plans]


def _plan_flow(path: Path) -> Planned:
    source = TorchFile(path)
    shapes = source.shapes()
    plans = plan_flow(FlowSizes.of(shapes, str(path)))
    known: dict[str, Source] = {}
    for plan in plans:
        known |= plan.sources()
    check_sources(known, shapes, str(path))
    return [(plan, source) for plan in plans]


def _plan_vocoders(folder: Path) -> Planned:
    out: Planned = []
    for name in _VOCODERS:
        path = folder / name
        if not path.is_file():
            continue
        source = MergedWeights(TorchFile(path), "generator.")
        shapes = source.shapes()
        plan = plan_vocoder(VocoderSizes.of(shapes, str(path)))
        check_sources(plan.sources(), shapes, str(path))
        if plan.path in [other.path for other, _ in out]:
            raise FormatError(f"{path}: holds the same kind of vocoder as {_VOCODERS[0]}")
        out.append((plan, source))
    return out


class _Renamed:
    """A source whose tensors get other names."""

    def __init__(self, source: TensorSource, rename: Callable[[str], str]) -> None:
        self._source = source
        self._names = {rename(name): name for name in source.shapes()}

    def shapes(self) -> dict[str, Shape]:
        """Shapes under the new names."""
        shapes = self._source.shapes()
        return {shown: shapes[name] for shown, name in self._names.items()}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows of a tensor by its new name."""
        return self._source.read(self._names[name], first, last)


def _speech_tokenizer_name(name: str) -> str:
    """Module name of a weight of the exported speech tokenizer."""
    if name.startswith("quantizer."):
        return re.sub(r"^quantizer\.project_in\.", "quantizer._codebook.project_down.", name)
    return "encoder." + re.sub(r"^encoders?\.", "", name)
