"""A small tokenizer of the published kind: byte-level BPE made of what is said, and all special tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from nano.language import INTERRUPTIONS, all_pairs, words

VOCABULARY = 1024
PROMPTS = (
    "system\nStreaming Omni Conversation.",
    "user\n",
    "assistant\n",
    "\n\n",
    "You are a helpful assistant. You can accept audio and text input and output voice and text.",
)

_PAIRED = words(
    "ref box quad point slice image_id unit answer focus line perception source_image image_save_to"
)
# In the order of the published vocabulary; "-" marks the ones that decoding keeps.
SPECIAL = words(
    "<unk> <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> "
    "<|video_pad|> -<tool_call> -</tool_call> -<|fim_prefix|> -<|fim_middle|> -<|fim_suffix|> -<|fim_pad|> "
    "-<|repo_name|> -<|file_sep|> -<tool_response> -</tool_response> -<think> -</think> <image> </image> "
    + " ".join(f"<{name}> </{name}>" for name in _PAIRED)
    + " <|audio_start|> <|audio|> <|audio_end|> <|spk_bos|> <|spk|> <|spk_eos|> <|tts_bos|> <|tts_eos|> "
    "<|listen|> <|speak|> <|interrupt|> <|vad_start|> <|vad_end|> <|emotion_start|> <|emotion_end|> "
    "<|speed_start|> <|speed_end|> <|pitch_start|> <|pitch_end|> <|turn_bos|> <|turn_eos|> <|chunk_eos|> "
    "<|chunk_bos|> <|chunk_tts_bos|> <|chunk_tts_eos|> <|tts_pad|> "
    + " ".join(f"<|timbre_{n}|>" for n in range(7, 32))
)

# Qwen2's, as the engine has it; the second is enough for ASCII, which is all that is trained here.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASCII_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]"
    r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(rest)) for b in range(256)]


def typed_forms(question: str) -> list[str]:
    """How a question is typed: as it is spoken, or as a sentence."""
    mark = (
        "?"
        if question.split()[0] in ("what", "who", "how", "where", "when", "why", "can", "are", "do")
        else "."
    )
    return [question, question[0].upper() + question[1:] + mark, question[0].upper() + question[1:]]


def corpus() -> Counter[str]:
    """Pieces that the vocabulary is made for, with their counts; answers count more."""
    pieces: Counter[str] = Counter()

    def add(text: str, times: int) -> None:
        for piece in re.findall(_ASCII_PATTERN, text):
            pieces[piece] += times

    for pair in all_pairs():
        add(pair.answer, 4)
        for text in typed_forms(pair.question):
            add(text, 1)
    for text in (*PROMPTS, *INTERRUPTIONS):
        add(text, 20)
    return pieces


def train_merges(count: int) -> list[tuple[str, str]]:
    """The `count` merges that byte pair encoding learns from the corpus (fewer if words run out)."""
    letters = byte_letters()
    words = [([letters[b] for b in piece.encode()], n) for piece, n in sorted(corpus().items())]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts, _ in words:
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def write_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json in the published layout; VOCABULARY ids at most."""
    merges = train_merges(VOCABULARY - 256 - len(SPECIAL))
    base = byte_letters() + ["".join(pair) for pair in merges]
    added = [
        {
            "id": len(base) + i,
            "content": token.removeprefix("-"),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": not token.startswith("-"),
        }
        for i, token in enumerate(SPECIAL)
    ]
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(base)},
            "merges": [list(pair) for pair in merges],
        },
    }
    settings = {
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 4096,
        "tokenizer_class": "MiniCPMOTokenizerFast",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
