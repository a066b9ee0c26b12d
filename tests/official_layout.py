"""The written-down layout of the official files, and sets of files of the real sizes that take no room."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from omni.convert.audio import plan_audio
from omni.convert.config import AudioSizes, LlmSizes, TtsSizes, VisionSizes
from omni.convert.llm import plan_llm
from omni.convert.plan import FilePlan, Key, TensorPlan
from omni.convert.token2wav import FlowSizes, VocoderSizes, plan_flow, plan_vocoder
from omni.convert.tokenizer import Tokenizer, load_tokenizer
from omni.convert.tts import plan_projector, plan_tts, vocabulary_size
from omni.convert.vision import plan_vision
from omni.convert.writer import write_header
from omni.model_files import PROJECTOR_PATH, llm_path, side_path

_TABLE = Path(__file__).parent / "golden" / "official_layout.txt"


@dataclass
class OfficialFile:
    """One file of the set. `tensors`: type and shape (fastest first) by name."""

    path: str
    n_tensors: int
    bytes: int | None
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def plan(self) -> FilePlan:
        """The file as the converter's writer takes it."""
        keys = [Key(name, kind, _value(kind, text)) for name, (kind, text) in self.keys.items()]
        tensors = [TensorPlan(n, shape[::-1], kind, ()) for n, (kind, shape) in self.tensors.items()]
        return FilePlan(self.path, keys, tensors)


def official_layout() -> dict[str, OfficialFile]:
    """All files of the table by path."""
    files: dict[str, OfficialFile] = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        words = line.split(" ")
        if not line or words[0] == "#":
            continue
        if words[0] == "file":
            size = int(words[3]) if len(words) > 3 else None
            file = files[words[1]] = OfficialFile(words[1], int(words[2]), size)
        elif words[0] == "key":
            file.keys[words[1]] = (words[2], " ".join(words[3:]))
        else:
            for name in _expand(words[0]):
                assert name not in file.tensors, name
                file.tensors[name] = (words[1], tuple(map(int, words[2].split(","))))
    return files


def real_tokenizer(checkpoint: Path, size: int = 151_748) -> Tokenizer:
    """The tiny checkpoint's tokenizer with as many tokens as the real one, added tokens at their real ids."""
    tiny = load_tokenizer(checkpoint, 1302)
    base, added = tiny.base_size, len(tiny.tokens) - tiny.base_size
    moved = 151_748 - added - base
    filler = [f"filler{i}" for i in range(moved)]
    padding = [f"[PAD{i}]" for i in range(151_748, size)]
    return replace(
        tiny,
        tokens=[*tiny.tokens[:base], *filler, *tiny.tokens[base:], *padding],
        types=[*tiny.types[:base], *[1] * moved, *tiny.types[base:], *[5] * len(padding)],
        bos=tiny.bos + moved,
        eos=tiny.eos + moved,
        pad=tiny.pad + moved,
        base_size=base + moved,
        bad_token_ids=None,
    )


def write_sparse(plan: FilePlan, directory: Path) -> Path:
    """Writes a planned file whose weights are zeros that take no room on the disk."""
    path = directory / plan.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_header(plan, path)
    with path.open("r+b") as out:
        out.truncate(plan.file_size())
    return path


def published_plans(checkpoint: Path, quant: str) -> list[FilePlan]:
    """All files of the official set at their real sizes, the language model with this quantisation."""
    speech, width = TtsSizes(), LlmSizes().hidden_size
    return [
        plan_llm(LlmSizes(), quant, real_tokenizer(checkpoint), "", llm_path(quant)),
        plan_vision(VisionSizes(), width, 64, 448, "F16", side_path("vision", "F16")),
        plan_audio(AudioSizes(), width, 5, "F16", side_path("audio", "F16")),
        plan_tts(
            speech,
            width,
            real_tokenizer(checkpoint, vocabulary_size(speech)),
            "F16",
            "",
            side_path("tts", "F16"),
        ),
        plan_projector(speech, width, PROJECTOR_PATH),
        *plan_flow(FlowSizes()),
        plan_vocoder(VocoderSizes()),
        official_layout()["token2wav-gguf/prompt_cache.gguf"].plan(),
    ]


def _expand(pattern: str) -> Iterator[str]:
    choices = []
    for piece in re.split(r"({[^}]*})", pattern):
        if span := re.fullmatch(r"{(\d+)\.\.(\d+)}", piece):
            choices.append([str(i) for i in range(int(span[1]), int(span[2]) + 1)])
        else:
            choices.append(piece.strip("{}").split(",") if piece.startswith("{") else [piece])
    return map("".join, itertools.product(*choices))


def _value(kind: str, text: str) -> object:
    if kind.endswith("[]"):
        return [float(word) for word in text.split(",")]
    return {"str": str, "bool": lambda t: t == "True", "f32": float}.get(kind, int)(text)
