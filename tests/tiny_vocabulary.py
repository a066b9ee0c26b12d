"""The vocabulary of the tiny checkpoint, straight from its tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import omni

GOLDEN = Path(__file__).parent / "golden"
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1


def tables() -> dict[str, Any]:
    """Tokens by id, their types, and merges, as the arguments of omni.Vocabulary."""
    data = json.loads((GOLDEN / "tiny" / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = {id: token for token, id in data["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, NORMAL)
    for added in data["added_tokens"]:
        by_id[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    count = max(by_id) + 1
    return {
        "tokens": [by_id[i] for i in range(count)],
        "types": [types[i] for i in range(count)],
        "merges": [" ".join(pair) for pair in data["model"]["merges"]],
    }


def tokenizer(**changes: Any) -> omni.Tokenizer:
    """A tokenizer of the tiny vocabulary with some of its tables replaced."""
    return omni.Tokenizer(omni.Vocabulary(**(tables() | changes)))


def write_gguf(path: Path, leave_out: str = "", **changes: Any) -> Path:
    """A GGUF file that holds only the tokenizer; `changes` replace keys (dots as underscores)."""
    import gguf

    values = {"tokenizer_ggml_model": "gpt2", "tokenizer_ggml_pre": "qwen2"} | changes
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, value in values.items():
        name = key.replace("tokenizer_ggml_", "tokenizer.ggml.").replace("omni_", "omni.")
        if name == leave_out:
            continue
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_array(name, value)
    t = tables()
    names = {"tokens": "tokens", "types": "token_type", "merges": "merges"}
    for key, name in names.items():
        if f"tokenizer.ggml.{name}" != leave_out:
            writer.add_array(f"tokenizer.ggml.{name}", t[key])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
