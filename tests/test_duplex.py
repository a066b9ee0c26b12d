"""Full-duplex sessions against the reference: every token, decision and window, greedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni import _ext
from omni.audio_io import load_audio
from omni.images import load_image
from omni.model_files import find_model_files

RATE = 16000
SCENARIOS = [
    "duplex_audio",
    "duplex_omni",
    "duplex_window_basic",
    "duplex_window_context",
    "duplex_unified_audio",
]


class Networks:
    """The tiny checkpoint's networks in float32."""

    def __init__(self, folder: Path) -> None:
        files = find_model_files(folder)
        assert files.vision
        assert files.audio
        self.tokenizer = omni.Tokenizer(files.llm)
        self.llm = omni.LanguageModel(files.llm, n_ctx=2048, kv_type="f32")
        self.vision = omni.VisionEncoder(files.vision, weight_format="stored")
        self.audio = omni.AudioEncoder(files.audio, weight_format="stored", kv_type="f32")


@pytest.fixture(scope="module")
def networks(tiny_model_dir: Path) -> Networks:
    return Networks(tiny_model_dir)


def options(scenario: dict[str, Any], server: bool) -> _ext.DuplexOptions:
    result = _ext.DuplexOptions()
    result.reference_quirks = True
    result.greedy = True
    result.force_listen_count = scenario.get("force_listen", 0)
    result.max_new_speak_tokens_per_chunk = scenario.get("max_tokens", 20)
    for name, value in scenario.get("window", {}).items():
        setattr(result, name, value)
    if server:
        result.max_unit_characters = 28
        result.deferred_finalize = True
    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_session(name: str, networks: Networks, golden: Path) -> None:
    data = np.load(golden / f"{name}.npz")
    scenario = json.loads(str(data["scenario"]))
    rows = json.loads(str(data["rows"]))
    server = "unified" in name
    logic = _ext.DuplexLogic(networks.llm._model, networks.tokenizer, options(scenario, server))
    stream = networks.audio.stream("duplex")

    reference: NDArray[np.float32] | None = None
    if scenario.get("ref"):
        reference = networks.audio.encode(load_audio(golden / "inputs" / "ref.wav", RATE))
    logic.prepare(scenario["prefix"], reference, scenario["suffix"], "\n\nprevious: ")
    assert logic.cache_length == data["prepare_cache_len"]

    sound = load_audio(golden / "inputs" / "long.wav", RATE)
    for chunk, row in enumerate(rows):
        audio = None
        if chunk not in scenario.get("no_audio", []):
            audio = stream.push(sound[chunk * RATE : (chunk + 1) * RATE])
            assert audio.shape[0] == 10
        frames = scenario["frames"].get(str(chunk), {})
        images = []
        for image in frames.get("images", []):
            pixels = load_image(golden / "inputs" / f"{image}.png")
            images.append(list(networks.vision.encode(pixels, frames.get("max_slice_nums", 1))))
        logic.prefill(images, audio, [])
        assert logic.cache_length == row["cache_after_prefill"], chunk
        result = logic.generate(chunk in scenario.get("force", []))
        if server:
            assert logic.cache_length == row["cache_before_finalize"], chunk
            logic.finalize()
        assert result.ids == row["ids"], chunk
        assert result.is_listen == row["is_listen"], chunk
        assert result.text == row["text"], chunk
        if chunk not in scenario.get("force", []):
            assert result.end_of_turn == row["end_of_turn"], chunk
        assert logic.turn_is_open == (not row["turn_ended"]), chunk
        assert logic.cache_length == row["cache_after"], chunk
        if not server:
            assert len(logic.units) == row["units"], chunk
            previous = networks.tokenizer.decode(logic.previous).removeprefix("\n\nprevious: ")
            assert previous == row["previous"], chunk
            assert len(result.spoken_ids) == row["n_tokens"], chunk
        if not result.is_listen:
            assert result.spoken_hidden.shape == (len(result.spoken_ids), networks.llm.info.width)
    if "schema" in data:
        assert logic.schema == str(data["schema"])
    if "final_key_cache_layer0_last8" in data:
        keys = logic._keys(0, logic.cache_length - 8, 8)
        expected = data["final_key_cache_layer0_last8"].transpose(1, 0, 2).reshape(8, -1)
        # Up to a dozen turns of the keys on top of a float32 pass: the project's bound for deep stacks.
        assert relative_rms(keys, expected) < 1e-3
