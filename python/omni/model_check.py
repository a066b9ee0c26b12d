"""Whether the files of a model belong together: told from their headers, before anything large is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omni import _ext
from omni.errors import FormatError, ModelFileError
from omni.model_files import PARTS, PROJECTOR_PATH, TOKEN2WAV_FOLDERS, ModelFiles

# What general.architecture says of the files of this family; token2wav's may say nothing.
_KINDS = {
    "qwen3": "a language model",
    "clip": "a picture encoder",
    "whisper": "a sound encoder",
    "llama": "a speech model",
    "projector": "a projector of the speech model",
}
# Which tensor's n-th size (fastest first) is the width of the language model that a file goes with.
_WIDTHS = {
    "vision": ("clip", "resampler.proj.weight", 0),
    "audio": ("whisper", "audio_projector.linear2.bias", 0),
    "tts": ("llama", "projector_semantic.linear1.weight", 0),
    "projector": ("projector", "linear1.weight", 0),
}
# A language model without these is another one of its architecture.
_TOKENS = ("<|im_end|>", "<image>", "<|audio_start|>", "<|tts_bos|>", "<|tts_eos|>")
_POINTER = b"version https://git-lfs"
_TOKEN2WAV = ("encoder.gguf", "flow_matching.gguf", "flow_extra.gguf")
_VOCODERS = ("hifigan2.gguf", "causal_vocoder.gguf")


class _Header:
    """Names and shapes of one file."""

    def __init__(self, path: Path, kind: str | None = None) -> None:
        self.path = path
        _require_content(path)
        self.file = _ext.GgufFile(str(path))
        self.keys = set(self.file.keys())
        self._shapes = {name: ne for name, _, ne, _, _ in self.file.tensors()}
        found = self.file.describe("general.architecture") if "general.architecture" in self.keys else None
        if kind is not None and found in _KINDS and found != kind:
            raise FormatError(f"{path}: holds {_KINDS[found]}, where {_KINDS[kind]} should be")

    def has(self, tensor: str) -> bool:
        return tensor in self._shapes

    def size(self, tensor: str, axis: int) -> int:
        """One size of a tensor. Raises FormatError if it is not there."""
        shape = self._shapes.get(tensor)
        if shape is None or len(shape) <= axis:
            raise FormatError(
                f"{self.path}: has no tensor '{tensor}': it is of another model, or of an older version of "
                "its files; get it again, or convert it anew"
            )
        return shape[axis]


def check_model_files(files: ModelFiles, parts: Iterable[str] = PARTS) -> None:
    """Checks the language model, and that the parts that are there belong to it and to one another.

    `parts`: of `PARTS`; what is not there is not checked. Raises ModelFileError or FormatError with the file
    and the reason.
    """
    llm = _Header(files.llm, "qwen3")
    width, rows = (llm.size("token_embd.weight", axis) for axis in range(2))
    tokens = llm.file.texts("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in llm.keys else []
    if not tokens:
        raise FormatError(f"{files.llm}: has no tokenizer; convert it anew")
    if len(tokens) > rows:
        raise FormatError(f"{files.llm}: has {len(tokens)} tokens and embeddings of {rows}")
    if missing := set(_TOKENS).difference(tokens):
        raise FormatError(
            f"{files.llm}: its vocabulary lacks {min(missing)}: it is not MiniCPM-o's language model"
        )
    for part in parts:
        if part == "speech":
            _check_speech(files, width, tokens)
        elif (path := getattr(files, part)) is not None:
            _require_width(path, part, files.llm, width)


def _require_width(path: Path, part: str, llm: Path, width: int) -> _Header:
    kind, tensor, axis = _WIDTHS[part]
    header = _Header(path, kind)
    found = header.size(tensor, axis)
    if found != width:
        raise FormatError(
            f"{path}: is made for embeddings of width {found}; {llm} has {width}: "
            "the files belong to different models"
        )
    return header


def _check_speech(files: ModelFiles, width: int, tokens: list[str]) -> None:
    if files.tts is None:
        return
    speech = _Header(files.tts, "llama")
    own = speech.size("emb_text.weight", 0)
    if files.projector is not None:
        projector = _require_width(files.projector, "projector", files.llm, width)
        out = projector.size("linear1.weight", 1)
        if out != own:
            raise FormatError(f"{files.projector}: gives {out} values; {files.tts} takes {own}")
    elif speech.has("projector_semantic.linear1.weight"):
        _require_width(files.tts, "tts", files.llm, width)
    else:
        wanted = files.directory / PROJECTOR_PATH
        raise ModelFileError(f"{wanted}: is missing, and {files.tts} holds no projector")
    _check_vocabulary(files, speech, tokens)
    if files.token2wav is not None:
        _check_token2wav(files.token2wav, speech)


def _check_vocabulary(files: ModelFiles, speech: _Header, tokens: list[str]) -> None:
    """The speech model takes the language model's ids: it must mean the same tokens by them."""
    rows = speech.size("emb_text.weight", 1)
    if rows < len(tokens):
        raise FormatError(
            f"{speech.path}: knows {rows} text tokens; {files.llm} has {len(tokens)}: "
            "the files belong to different models"
        )
    if "tokenizer.ggml.tokens" not in speech.keys:
        return
    for i, (ours, theirs) in enumerate(zip(tokens, speech.file.texts("tokenizer.ggml.tokens"), strict=False)):
        if ours != theirs and not (ours.startswith("[PAD") or theirs.startswith("[PAD")):
            raise FormatError(
                f"{speech.path}: its token {i} is {theirs!r}; that of {files.llm} is {ours!r}: "
                "the files belong to different models"
            )


def _check_token2wav(folder: Path, speech: _Header) -> None:
    if not (folder / _TOKEN2WAV[0]).is_file():
        folder = next((folder / n for n in TOKEN2WAV_FOLDERS if (folder / n).is_dir()), folder)
    missing = [name for name in _TOKEN2WAV if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _VOCODERS):
        missing.append(_VOCODERS[0])
    if missing:
        raise ModelFileError(f"{folder / missing[0]}: is missing; speech needs it")
    codes = _Header(folder / "flow_extra.gguf").size("input_embedding.weight", 1)
    made = speech.size("emb_code.0.weight", 1)
    if codes + 1 != made:  # the speech model has one more, which ends its speech
        raise FormatError(
            f"{folder / 'flow_extra.gguf'}: takes {codes} speech tokens; {speech.path} makes {made - 1}: "
            "the files belong to different models"
        )
    inside = _Header(folder / "encoder.gguf").size("after_norm.weight", 0)
    cache = folder / "prompt_cache.gguf"
    if cache.is_file():
        found = _Header(cache).size("prompt_cache.conformer_cnn_cache", 0)
        if found != inside:
            raise FormatError(f"{cache}: is a voice of width {found}; encoder.gguf has {inside}")


def _require_content(path: Path) -> None:
    """Files that downloads and version control leave in place of large ones."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error
    if head.startswith(_POINTER):
        raise FormatError(f"{path}: is git's pointer to the file, not the file: 'git lfs pull' gets it")
    if head[:1] == b"<":
        raise FormatError(f"{path}: is a web page; the download brought an error page instead of the file")
