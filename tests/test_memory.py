"""Memory: what a model takes at its real sizes, and what is said when there is less."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import relative_rms
from official_layout import published_plans, write_sparse

import omni
from omni import memory
from omni.memory import available_memory, context_bytes, memory_needs
from omni.model_files import find_model_files


def with_memory(monkeypatch: pytest.MonkeyPatch, available: int | None) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: available)


@pytest.mark.skipif(os.name == "nt", reason="its files are not sparse")
def test_needs_at_the_real_sizes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for plan in published_plans(tiny_checkpoint, "Q4_K_M"):
        write_sparse(plan, tmp_path)
    files = find_model_files(tmp_path)
    needs = memory_needs(files, 8192, "f16")
    # Keys and values: 36 layers, 8 heads of 128, F16.
    assert needs.context == 2 * 36 * 8 * 128 * 2 * 8192 == context_bytes(36, 8, 128, 8192, "f16")
    assert context_bytes(36, 8, 128, 8192, "q8_0") * 32 == needs.context * 17
    # The file without its token table (151748 x 4096, 144 bytes for 256 values) and its 6 MB of metadata.
    assert needs.llm == pytest.approx(files.llm.stat().st_size - 151_748 * 4096 * 144 / 256, rel=3e-3)
    # The published files without headers and padding, less what nobody reads: the speech model's token table
    # (158626 x 768, F16), its text table (152064 x 768, F32), an F16 matrix of 768 x 4096, and the picture
    # encoder's positions (4900 x 4096, F32).
    sides = 1_095_113_184 + 660_167_904 + 1_157_244_416 + 706_495_392 + 211_613_152
    idle = 158_626 * 768 * 2 + 152_064 * 768 * 4 + 768 * 4096 * 2 + 4900 * 4096 * 4
    assert needs.parts == pytest.approx(sides - idle, rel=3e-3)
    alone = memory_needs(files, 8192, "f16", ())
    assert (alone.llm, alone.context, alone.parts) == (needs.llm, needs.context, 0)
    assert "the other networks" in str(needs) and "the other networks" not in str(alone)


def test_too_little_is_said_before_loading(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(n_ctx: int) -> omni.MiniCPMO:
        return omni.MiniCPMO.from_pretrained(
            tiny_model_dir, init_vision=False, init_audio=False, init_tts=False, n_ctx=n_ctx, n_threads=1
        )

    needs = memory_needs(find_model_files(tiny_model_dir), 64, "f16", ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_memory(monkeypatch, needs.total)
        opened(64)
        with_memory(monkeypatch, None)
        opened(64)
    with_memory(monkeypatch, needs.total - 1)
    with pytest.warns(UserWarning, match=r"F32\.gguf needs 0\.0 GB .* are available: it will be read .*q8_0"):
        opened(64)
    with_memory(monkeypatch, 10**9)
    with pytest.raises(omni.OutOfMemoryError, match=r"positions takes 1\.5 GB; 1\.0 GB are"):
        opened(1_000_000)


def test_the_other_networks_in_half_the_memory(tiny_model_dir: Path, golden: Path) -> None:
    picture = golden / "inputs" / "photo.png"
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, 16000).astype(np.float32)
    seen, heard = [], []
    for weights in ("stored", "q8_0"):
        model = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=64, n_threads=1, weight_format=weights)
        assert model.vision and model.audio
        held = {model.vision.info.matrix_type, model.audio.info.matrix_type}
        held.add(model.require_speaker().speech.info.matrix_type)
        assert held == {"f32" if weights == "stored" else "q8_0"}
        seen.append(model.vision.encode(picture, max_slice_nums=1))
        heard.append(model.audio.encode(sound))
    # Q8_0 rounds a weight by 0.5 / 127 of its block's largest, some 0.4 % of the rest, and inputs likewise;
    # a few products on the way, each adding its square, stay below 3 %.
    assert 0 < relative_rms(seen[1], seen[0]) < 0.03
    assert 0 < relative_rms(heard[1], heard[0]) < 0.03


def test_available_memory() -> None:
    available = available_memory()
    assert available is None or available > 10**8
