"""Conversion of the vision and audio networks: values, layout, sizes at the published dimensions."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import copy_checkpoint, raw_safetensors, tensors_of, write_safetensors

from omni.convert import Options, convert
from omni.convert.audio import mel_filters, plan_audio
from omni.convert.config import AudioSizes, VisionSizes
from omni.convert.vision import plan_vision, position_table
from omni.errors import FormatError


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path) -> dict[str, np.ndarray]:
    return raw_safetensors(tiny_checkpoint / "model.safetensors")


def test_vision_values(tiny_model_dir: Path, source: dict[str, np.ndarray]) -> None:
    found = tensors_of(tiny_model_dir / "vision" / "MiniCPM-o-4_5-vision-F32.gguf")
    packed, bias = source["resampler.attn.in_proj_weight"], source["resampler.attn.in_proj_bias"]
    wanted = {
        "v.patch_embd.weight": source["vpm.embeddings.patch_embedding.weight"],
        "v.patch_embd.bias": source["vpm.embeddings.patch_embedding.bias"],
        "v.position_embd.weight": source["vpm.embeddings.position_embedding.weight"],
        "resampler.query": source["resampler.query"],
        "resampler.proj.weight": source["resampler.proj"].T,
        "resampler.kv.weight": source["resampler.kv_proj.weight"],
        "resampler.pos_embed_k": position_table(256),
    }
    for i, part in enumerate("qkv"):
        wanted[f"resampler.attn.{part}.weight"] = packed[256 * i : 256 * (i + 1)]
        wanted[f"resampler.attn.{part}.bias"] = bias[256 * i : 256 * (i + 1)]
    layer = {
        "ln1": "layer_norm1",
        "ln2": "layer_norm2",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_out": "self_attn.out_proj",
        "ffn_down": "mlp.fc1",
        "ffn_up": "mlp.fc2",
    }
    for part in ("weight", "bias"):
        wanted[f"v.post_ln.{part}"] = source[f"vpm.post_layernorm.{part}"]
        wanted[f"resampler.attn.out.{part}"] = source[f"resampler.attn.out_proj.{part}"]
        for norm in ("ln_q", "ln_kv", "ln_post"):
            wanted[f"resampler.{norm}.{part}"] = source[f"resampler.{norm}.{part}"]
        for i in range(3):
            for ours, hf in layer.items():
                wanted[f"v.blk.{i}.{ours}.{part}"] = source[f"vpm.encoder.layers.{i}.{hf}.{part}"]
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_position_table() -> None:
    table = position_table(4096, 3)  # row of (x, y) is 3 y + x
    assert table[1][[0, 1024, 2048, 3072]] == pytest.approx([0.841471, 0.540302, 0, 1], abs=1e-6)
    assert table[3][[0, 1024, 2048, 3072]] == pytest.approx([0, 1, 0.841471, 0.540302], abs=1e-6)
    assert table[1][1] == pytest.approx(np.sin(10000 ** (-1 / 1024)), abs=1e-6)


def test_vision_metadata(tiny_model_dir: Path) -> None:
    fields = gguf.GGUFReader(tiny_model_dir / "vision" / "MiniCPM-o-4_5-vision-F32.gguf").fields
    wanted = {
        "general.architecture": "clip",
        "clip.vision.image_size": 448,
        "clip.vision.patch_size": 14,
        "clip.vision.embedding_length": 64,
        "clip.vision.feed_forward_length": 160,
        "clip.vision.attention.head_count": 4,
        "clip.vision.block_count": 3,
        "clip.minicpmv_query_num": 64,
        "clip.minicpmv_version": 100045,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.use_gelu": True,
    }
    assert {key: fields[key].contents() for key in wanted} == wanted


def test_audio_values(tiny_model_dir: Path, source: dict[str, np.ndarray]) -> None:
    found = tensors_of(tiny_model_dir / "audio" / "MiniCPM-o-4_5-audio-F32.gguf")
    wanted = {"encoder.positional_embedding": source["apm.embed_positions.weight"]}
    for i in (1, 2):
        wanted[f"encoder.conv{i}.weight"] = source[f"apm.conv{i}.weight"]
        wanted[f"encoder.conv{i}.bias"] = source[f"apm.conv{i}.bias"][:, None]
    layer = {
        "attn_ln": "self_attn_layer_norm",
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
        "attn.out": "self_attn.out_proj",
        "mlp_ln": "final_layer_norm",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
    }
    for part in ("weight", "bias"):
        wanted[f"encoder.ln_post.{part}"] = source[f"apm.layer_norm.{part}"]
        for i in (1, 2):
            wanted[f"audio_projector.linear{i}.{part}"] = source[f"audio_projection_layer.linear{i}.{part}"]
        for i in range(3):
            for ours, hf in layer.items():
                if (ours, part) != ("attn.key", "bias"):
                    wanted[f"encoder.blocks.{i}.{ours}.{part}"] = source[f"apm.layers.{i}.{hf}.{part}"]
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_audio_metadata(tiny_model_dir: Path) -> None:
    fields = gguf.GGUFReader(tiny_model_dir / "audio" / "MiniCPM-o-4_5-audio-F32.gguf").fields
    wanted = {
        "general.architecture": "whisper",
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 256,
        "encoder_layers": 3,
        "num_hidden_layers": 3,
        "d_model": 64,
        "audio_pool_step": 5,
        "use_f16": 0,
        "n_mel": 80,
        "n_fft": 201,
    }
    assert {key: fields[key].contents() for key in wanted} == wanted
    filters = np.array(fields["filters"].contents(), np.float32).reshape(80, 201)
    np.testing.assert_array_equal(filters, mel_filters(80, 16000, 400))


def test_mel_filters_have_the_published_values() -> None:
    filters = mel_filters(80, 16000, 400)
    assert np.count_nonzero(filters) == 391
    assert np.flatnonzero(filters[0]).tolist() == [1]
    assert filters[0, 1] == np.float32(0.0248625949)
    assert filters[1, 1:3] == pytest.approx([0.00199082191, 0.0228717718], rel=1e-7)
    assert filters[39, 40:44] == pytest.approx(
        [0.00141804758, 0.0114869224, 0.0100897448, 0.000400222867], rel=1e-7
    )
    assert np.flatnonzero(filters[79])[[0, -1]].tolist() == [186, 199]
    assert filters[79].max() == filters[79, 192] == np.float32(0.00316471164)


def test_published_vision_file() -> None:
    plan = plan_vision(VisionSizes(), 4096, 64, 448, "F16", "x")
    assert (len(plan.tensors), len(plan.metadata)) == (455, 20)
    assert plan.file_size() == 1_095_113_184
    kinds = {t.name: (t.shape[::-1], t.type) for t in plan.tensors}
    assert kinds["v.blk.26.ffn_down.weight"] == ((1152, 4304), "F16")
    assert kinds["v.blk.26.ffn_up.weight"] == ((4304, 1152), "F16")
    assert kinds["resampler.pos_embed_k"] == ((4096, 4900), "F32")
    assert kinds["v.patch_embd.weight"] == ((14, 14, 3, 1152), "F16")
    assert kinds["resampler.query"] == ((4096, 64), "F32")


def test_published_audio_file() -> None:
    plan = plan_audio(AudioSizes(), 4096, 5, "F16", "x")
    assert len(plan.tensors) == 371
    assert plan.file_size() == 660_167_904
    kinds = {t.name: (t.shape[::-1], t.type) for t in plan.tensors}
    assert kinds["encoder.conv1.bias"] == ((1, 1024), "F32")
    assert kinds["encoder.conv2.weight"] == ((3, 1024, 1024), "F16")
    assert kinds["encoder.positional_embedding"] == ((1024, 1500), "F32")
    assert "encoder.blocks.0.attn.key.bias" not in kinds


def test_f16_files_hold_f16_numbers(
    tiny_checkpoint: Path, tmp_path: Path, source: dict[str, np.ndarray]
) -> None:
    convert(tiny_checkpoint, tmp_path, Options(only=frozenset({"vision", "audio"})))
    vision = tensors_of(tmp_path / "vision" / "MiniCPM-o-4_5-vision-F16.gguf")
    assert vision["resampler.proj.weight"].dtype == np.float16
    np.testing.assert_array_equal(
        vision["resampler.proj.weight"], source["resampler.proj"].T.astype(np.float16)
    )
    assert vision["v.blk.0.ffn_up.bias"].dtype == np.float32
    audio = tensors_of(tmp_path / "audio" / "MiniCPM-o-4_5-audio-F16.gguf")
    table = source["apm.embed_positions.weight"]
    np.testing.assert_array_equal(
        audio["encoder.positional_embedding"], table.astype(np.float16).astype(np.float32)
    )


def test_quantised_side_files_keep_convolutions_and_tables() -> None:
    plan = plan_vision(VisionSizes(), 4096, 64, 448, "Q8_0", "x")
    kinds = {t.name: t.type for t in plan.tensors}
    assert kinds["v.blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["v.blk.0.ffn_up.weight"] == "F16"  # rows of 4304 fit no block
    assert kinds["v.patch_embd.weight"] == kinds["v.position_embd.weight"] == "F16"
    assert kinds["v.blk.0.attn_q.bias"] == kinds["resampler.query"] == "F32"


@pytest.mark.parametrize(
    ("configured", "drop", "runs"), [(4, True, 3), (3, True, 2), (3, False, 3), (9, None, 3)]
)
def test_vision_layer_rule(
    tiny_checkpoint: Path, tmp_path: Path, configured: int, drop: bool | None, runs: int
) -> None:
    copy = copy_checkpoint(tiny_checkpoint, tmp_path / "hf")
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = configured
    config["drop_vision_last_layer"] = drop
    (copy / "config.json").write_text(json.dumps(config))
    (path,) = convert(copy, tmp_path / "out", Options(only=frozenset({"vision"})))
    reader = gguf.GGUFReader(path)
    assert reader.fields["clip.vision.block_count"].contents() == runs
    assert len({t.name.split(".")[2] for t in reader.tensors if t.name.startswith("v.blk.")}) == runs


@pytest.mark.parametrize(("configured", "drop"), [(5, True), (4, False), (1, False)])
def test_vision_layers_that_contradict_the_config(
    tiny_checkpoint: Path, tmp_path: Path, configured: int, drop: bool
) -> None:
    copy = copy_checkpoint(tiny_checkpoint, tmp_path / "hf")
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = configured
    config["drop_vision_last_layer"] = drop
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="3 vision layers"):
        convert(copy, tmp_path / "out", Options(only=frozenset({"vision"})))


def test_numbers_that_f16_cannot_hold_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_checkpoint(tiny_checkpoint, tmp_path / "hf")
    values = raw_safetensors(copy / "model.safetensors")
    values["apm.layers.1.fc1.weight"][7, 3] = 70000.0
    write_safetensors(copy / "model.safetensors", values)
    with pytest.raises(FormatError, match=r"encoder\.blocks\.1\.mlp\.0\.weight.*row 7, column 3.*F16"):
        convert(copy, tmp_path / "out", Options(only=frozenset({"audio"})))
    assert not list((tmp_path / "out").rglob("*.gguf"))
    convert(copy, tmp_path / "out", Options(audio="F32", only=frozenset({"audio"})))
