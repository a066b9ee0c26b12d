"""Models of the published structure whose files state other facts than the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import copy_checkpoint, raw_safetensors, write_safetensors

import omni
from omni import _ext
from omni.convert import Options, convert

QUERIES = 16
WINDOW = {"sliding_window_mode": "basic", "basic_window_high_tokens": 300, "basic_window_low_tokens": 200}


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def model_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with fewer queries for a picture and a window of its own."""
    folder = tmp_path_factory.mktemp("other")
    source = copy_checkpoint(tiny_checkpoint, folder / "checkpoint")
    tensors = raw_safetensors(source / "model.safetensors")
    tensors["resampler.query"] = tensors["resampler.query"][:QUERIES]
    write_safetensors(source / "model.safetensors", tensors)
    (source / "model.safetensors.index.json").unlink()
    edit_config(source, query_num=QUERIES, duplex_config=WINDOW)
    out = folder / "model"
    convert(
        source, out, Options(llm="F32", vision="F32", audio="F32", only=frozenset({"llm", "vision", "audio"}))
    )
    return out


def test_a_picture_takes_as_many_places_as_its_encoder_gives(model_dir: Path) -> None:
    model = omni.MiniCPMO.from_pretrained(model_dir, n_ctx=1024, n_threads=1, kv_type="f32")
    picture = np.random.default_rng(1).integers(0, 255, (448, 448, 3), dtype=np.uint8)
    answer = model.chat(msgs=[{"role": "user", "content": [picture, "?"]}], max_new_tokens=2, num_beams=1)
    assert isinstance(answer, str)
    # A streamed session counts rows.
    model.streaming_prefill(session_id="s", msgs=[{"role": "user", "content": [picture]}], omni_mode=True)
    text = "<|im_start|>user\n<image>" + "<unk>" * QUERIES + "</image>"
    assert model._simplex is not None
    assert model._simplex._cache.length == len(model.tokenizer.encode(text))


def test_a_model_states_its_window(model_dir: Path, tiny_model_dir: Path) -> None:
    llm = next(model_dir.glob("*.gguf"))
    options = _ext.DuplexOptions.of_model(str(llm))
    assert {name: getattr(options, name) for name in WINDOW} == WINDOW
    assert options.context_max_units == 24
    published = _ext.DuplexOptions.of_model(str(next(tiny_model_dir.glob("*.gguf"))))
    assert (published.sliding_window_mode, published.basic_window_high_tokens) == ("off", 8000)


def test_a_duplex_session_follows_its_model(model_dir: Path) -> None:
    model = omni.MiniCPMO.from_pretrained(model_dir, n_ctx=1024, n_threads=1)

    def window(**params: Any) -> dict[str, Any]:
        options = model.as_duplex(**params)._options
        return {name: getattr(options, name) for name in WINDOW}

    assert window() == WINDOW
    high, low = "basic_window_high_tokens", "basic_window_low_tokens"
    assert window(sliding_window_mode="off", basic_window_high_tokens=150) == {
        "sliding_window_mode": "off", high: 150, low: 150,
    }  # fmt: skip
    assert window(n_ctx=100) == WINDOW | {high: 100, low: 75}
    duplex = model.as_duplex()
    duplex.prepare()
    length = duplex.cache_length
    assert duplex.streaming_prefill(frame_list=[np.zeros((40, 40, 3), np.uint8)]).success
    assert duplex.cache_length == length + 1 + QUERIES + 2


@pytest.mark.parametrize(
    "window",
    [
        {"sliding_window_mode": "sometimes"},
        {"basic_window_low_tokens": -1},
        {"basic_window_high_tokens": 100, "basic_window_low_tokens": 200},
    ],
)
def test_impossible_windows_are_refused(
    window: dict[str, object], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = copy_checkpoint(tiny_checkpoint, tmp_path / "checkpoint")
    edit_config(source, duplex_config=window)
    with pytest.raises(omni.FormatError, match=r"window"):
        convert(source, tmp_path / "out", Options(llm="F32", only=frozenset({"llm"})))
