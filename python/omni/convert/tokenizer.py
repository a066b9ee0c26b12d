"""Tokenizer files of a checkpoint to GGUF metadata."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omni.convert import keys
from omni.convert.checkpoint import read_json
from omni.convert.plan import Key
from omni.errors import FormatError, ModelFileError

# tokenizer.ggml.token_type
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

# The pre-tokenizer that GGUF files call "qwen2".
_PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]{2}")

# Tokens that the published list forbids beyond the rule; other vocabularies may not hold them.
_EXTRA_BAD_TOKENS = {37945: "，请", 78903: "，默认", 90395: "，并", 95053: "，则", 96050: "，在"}


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE vocabulary as the files give it."""

    tokens: list[str]  # by id, in the byte-to-letter spelling of byte-level BPE
    types: list[int]
    merges: list[str]  # "left right"
    bos: int
    eos: int
    pad: int
    chat_template: str
    bad_token_ids: list[int] | None  # None: the checkpoint has no list
    base_size: int  # ids below are the base vocabulary

    def metadata(self) -> list[Key]:
        """The tokenizer.* keys."""
        out = [
            Key("tokenizer.ggml.model", "str", "gpt2"),
            Key("tokenizer.ggml.pre", "str", "qwen2"),
            Key("tokenizer.ggml.tokens", "str[]", self.tokens),
            Key("tokenizer.ggml.token_type", "i32[]", self.types),
            Key("tokenizer.ggml.merges", "str[]", self.merges),
            Key("tokenizer.ggml.eos_token_id", "u32", self.eos),
            Key("tokenizer.ggml.padding_token_id", "u32", self.pad),
            Key("tokenizer.ggml.bos_token_id", "u32", self.bos),
            Key("tokenizer.ggml.add_bos_token", "bool", False),
        ]
        if self.chat_template:
            out.append(Key("tokenizer.chat_template", "str", self.chat_template))
        return out

    def omni_metadata(self) -> list[Key]:
        """The list of forbidden ids, where the rule does not give it."""
        bad = self.bad_token_ids
        if bad is None or bad == bad_token_rule(self.tokens[: self.base_size]):
            return []
        return [Key(keys.BAD_TOKEN_IDS, "i32[]", bad)]


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """Reads and checks the tokenizer of a checkpoint.

    `vocab_size`: rows of the embedding table; ids without a token become `[PADn]`. Merges come from
    tokenizer.json: the merges.txt of the released package is reduced and tokenizes Chinese differently.
    Raises FormatError if the files contradict each other or use another scheme.
    """
    settings = read_json(directory / "tokenizer_config.json")
    vocabulary, merges = _read_model(directory)
    added = _added_tokens(directory, settings)
    tokens: dict[int, str] = {}
    for token, number in vocabulary.items():
        if tokens.setdefault(number, token) != token:
            raise FormatError(f"{directory}: tokens {tokens[number]!r} and {token!r} share the id {number}")
    for number, (token, _) in added.items():
        if tokens.setdefault(number, token) != token:
            raise FormatError(f"{directory}: id {number} is both {tokens[number]!r} and {token!r}")
    outside = [i for i in tokens if not 0 <= i < vocab_size]
    if outside:
        raise FormatError(
            f"{directory}: the tokenizer has id {max(outside)}, but config.json says vocab_size {vocab_size}"
        )
    types = [_NORMAL if i in tokens else _UNUSED for i in range(vocab_size)]
    for number, (_, special) in added.items():
        types[number] = _CONTROL if special else _USER_DEFINED
    ids = {token: number for number, token in tokens.items()}
    return Tokenizer(
        tokens=[tokens.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        types=types,
        merges=[f"{left} {right}" for left, right in merges],
        bos=_named(ids, settings, "bos_token", directory),
        eos=_named(ids, settings, "eos_token", directory),
        pad=_named(ids, settings, "pad_token", directory),
        chat_template=_chat_template(directory, settings),
        bad_token_ids=_bad_token_ids(settings, vocab_size, directory),
        base_size=min((i for i in added if i not in vocabulary.values()), default=len(vocabulary)),
    )


def bad_token_rule(tokens: Sequence[str]) -> list[int]:
    """Ids of base tokens that speech modes never emit, in order.

    Those whose own decoding has a parenthesis, a line break or a broken character, and a few fixed ones of
    the published vocabulary. `tokens`: the base vocabulary by id.
    """
    found = []
    for number, token in enumerate(tokens):
        text = _decode(token)
        if any(c in text for c in "()（）\r\n\ufffd") or _EXTRA_BAD_TOKENS.get(number) == text:
            found.append(number)
    return found


@cache
def _letter_bytes() -> dict[str, int]:
    # Byte-level BPE spells printable Latin-1 bytes as themselves and the others as letters from U+0100 on.
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}


def _decode(token: str) -> str:
    letters = _letter_bytes()
    if any(c not in letters for c in token):
        return token  # an added token, spelled as text
    return bytes(letters[c] for c in token).decode("utf-8", "replace")


def _read_model(directory: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    path = directory / "tokenizer.json"
    text_merges = _read_merges(directory / "merges.txt")
    if not path.exists():
        if text_merges is None:
            raise ModelFileError(f"{path}: is missing")
        vocabulary = _vocabulary(read_json(directory / "vocab.json"), directory / "vocab.json")
        products = {left + right for left, right in text_merges}
        lost = [t for t in vocabulary if t not in products and _HAN.search(_decode(t))]
        if lost:
            raise FormatError(
                f"{directory}: merges.txt can't build {len(lost)} Chinese words of vocab.json (such as "
                f"'{_decode(lost[0])}'): it is the reduced table, which tokenizes Chinese wrongly. "
                "Put the checkpoint's tokenizer.json beside it"
            )
        return vocabulary, text_merges
    data = read_json(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise FormatError(f"{path}: is not a byte-level BPE tokenizer")
    if model.get("byte_fallback") or model.get("ignore_merges"):
        raise FormatError(f"{path}: byte_fallback and ignore_merges are not supported")
    _check_pipeline(data, path)
    merges = [_merge(entry, path) for entry in model.get("merges", [])]
    if text_merges is not None and text_merges != merges:
        warnings.warn(
            f"{directory}: merges.txt has {len(text_merges)} merges, tokenizer.json {len(merges)}; "
            "tokenizer.json is used, merges.txt would tokenize Chinese differently",
            stacklevel=2,
        )
    return _vocabulary(model.get("vocab"), path), merges


def _check_pipeline(data: dict[str, Any], path: Path) -> None:
    normalizer = data.get("normalizer") or {}
    if normalizer.get("type") != "NFC":
        raise FormatError(f"{path}: the normalizer is {normalizer.get('type')}, not NFC")
    steps = (data.get("pre_tokenizer") or {}).get("pretokenizers", [])
    patterns = [
        s["pattern"].get("Regex") for s in steps if isinstance(s, dict) and isinstance(s.get("pattern"), dict)
    ]
    if patterns != [_PRE_TOKENIZER]:
        raise FormatError(f"{path}: the pre-tokenizer is not Qwen2's; GGUF has no name for it")


def _vocabulary(value: object, path: Path) -> dict[str, int]:
    if not isinstance(value, dict) or not value or not all(type(i) is int for i in value.values()):
        raise FormatError(f"{path}: has no usable vocabulary")
    return value


def _merge(entry: object, path: Path) -> tuple[str, str]:
    parts = entry.split(" ") if isinstance(entry, str) else entry
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
        raise FormatError(f"{path}: {entry!r} is not a merge")
    return parts[0], parts[1]


def _read_merges(path: Path) -> list[tuple[str, str]] | None:
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    return [_merge(line, path) for line in lines if line]


def _added_tokens(directory: Path, settings: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """Id to (text, special) from every file that has a say."""
    added: dict[int, tuple[str, bool]] = {}
    listed: list[tuple[object, object]] = []
    if (directory / "tokenizer.json").exists():
        entries = read_json(directory / "tokenizer.json").get("added_tokens", [])
        listed += [(entry.get("id"), entry) for entry in entries if isinstance(entry, dict)]
    listed += list(settings.get("added_tokens_decoder", {}).items())
    for number, entry in listed:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("content"), str)
            or not str(number).isdecimal()
        ):
            raise FormatError(f"{directory}: {entry!r} is not an added token")
        fact = (entry["content"], bool(entry.get("special")))
        if added.setdefault(int(str(number)), fact) != fact:
            raise FormatError(
                f"{directory}: tokenizer.json and tokenizer_config.json disagree on token {number}"
            )
    return added


def _named(ids: dict[str, int], settings: dict[str, Any], name: str, directory: Path) -> int:
    token = settings.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    if token not in ids:
        raise FormatError(
            f"{directory / 'tokenizer_config.json'}: {name} is {token!r}, which is not in the vocabulary"
        )
    return ids[str(token)]


def _chat_template(directory: Path, settings: dict[str, Any]) -> str:
    separate = directory / "chat_template.jinja"
    template = (
        separate.read_text(encoding="utf-8") if separate.exists() else settings.get("chat_template", "")
    )
    return template if isinstance(template, str) else ""


def _bad_token_ids(settings: dict[str, Any], vocab_size: int, directory: Path) -> list[int] | None:
    ids = settings.get("bad_token_ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise FormatError(
            f"{directory / 'tokenizer_config.json'}: bad_token_ids must be ids of the vocabulary"
        )
    return sorted(ids)
