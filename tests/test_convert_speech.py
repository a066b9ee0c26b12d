"""Conversion of the speech half: values, layout, both vocoders, sizes at the published dimensions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from checkpoints import raw_safetensors, tensors_of

from omni.convert import Options, convert
from omni.convert.config import TtsSizes
from omni.convert.plan import FilePlan
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
from omni.convert.tts import plan_projector, plan_tts


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path) -> dict[str, np.ndarray]:
    return raw_safetensors(tiny_checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def tts(tiny_model_dir: Path) -> dict[str, np.ndarray]:
    return tensors_of(tiny_model_dir / "tts" / "MiniCPM-o-4_5-tts-F32.gguf")


def test_tts_plain_tensors(tts: dict[str, np.ndarray], source: dict[str, np.ndarray]) -> None:
    names = {"output_norm.weight": "model.norm.weight"}
    layer = {
        "attn_norm": "input_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for i in range(2):
        names |= {f"blk.{i}.{ours}.weight": f"model.layers.{i}.{hf}.weight" for ours, hf in layer.items()}
    names |= {name: name for name in ("emb_text.weight", "emb_code.0.weight")}
    for projector in ("projector_semantic", "projector_spk"):
        for part in ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"):
            names[f"{projector}.{part}"] = f"{projector}.{part}"
    rotated = {f"blk.{i}.attn_{x}.weight" for i in range(2) for x in "qk"}
    assert set(tts) == set(names) | rotated | {"token_embd.weight", "head_code.0.weight"}
    for ours, hf in names.items():
        np.testing.assert_array_equal(tts[ours], source[f"tts.{hf}"], err_msg=ours)


def test_tts_rotation_pairs_are_neighbours(tts: dict[str, np.ndarray], source: dict[str, np.ndarray]) -> None:
    for i in range(2):
        for ours, hf in (("attn_q", "q_proj"), ("attn_k", "k_proj")):
            wanted = source[f"tts.model.layers.{i}.self_attn.{hf}.weight"]
            found = tts[f"blk.{i}.{ours}.weight"]
            for head in range(2):
                for pair in range(16):
                    row = 32 * head + 2 * pair
                    np.testing.assert_array_equal(found[row], wanted[32 * head + pair])
                    np.testing.assert_array_equal(found[row + 1], wanted[32 * head + pair + 16])


def test_tts_head_is_merged_and_transposed(tts: dict[str, np.ndarray], source: dict[str, np.ndarray]) -> None:
    g = source["tts.head_code.0.parametrizations.weight.original0"].astype(np.float64)
    v = source["tts.head_code.0.parametrizations.weight.original1"].astype(np.float64)
    wanted = g * v / np.linalg.norm(v, axis=1, keepdims=True)
    assert tts["head_code.0.weight"].shape == (64, 6562)
    # One rounding to float32.
    np.testing.assert_allclose(tts["head_code.0.weight"].T, wanted, rtol=2**-23, atol=0)


def test_tts_metadata(tiny_model_dir: Path, tts: dict[str, np.ndarray]) -> None:
    fields = gguf.GGUFReader(tiny_model_dir / "tts" / "MiniCPM-o-4_5-tts-F32.gguf").fields
    vocabulary = 1318 + 6562
    wanted = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 192,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 32,
        "llama.vocab_size": vocabulary,
        "omni.audio_bos_token_id": 1241,
        "omni.text_eos_token_id": 1246,
    }
    assert {key: fields[key].contents() for key in wanted} == wanted
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == vocabulary
    assert (tokens[1301], tokens[1302], tokens[-1]) == (
        "<|timbre_31|>",
        "[PAD1302]",
        f"[PAD{vocabulary - 1}]",
    )
    assert tts["token_embd.weight"].shape == (vocabulary, 64)
    assert not tts["token_embd.weight"].any()  # the tiny checkpoint has no such table


def test_projector(tiny_model_dir: Path, source: dict[str, np.ndarray]) -> None:
    path = tiny_model_dir / "tts" / "MiniCPM-o-4_5-projector-F16.gguf"
    found = tensors_of(path)
    assert set(found) == {"linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"}
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, source[f"tts.projector_semantic.{name}"])


def count(plan: FilePlan) -> tuple[int, int]:
    """Tensors and parameters."""
    return len(plan.tensors), plan.tensor_size() // 4


def test_published_speech_files() -> None:
    plan = plan_tts(TtsSizes(), 4096, None, "F16", "", "x")
    assert len(plan.tensors) == 193
    kinds = {t.name: (t.shape[::-1], t.type) for t in plan.tensors}
    assert kinds["token_embd.weight"] == ((768, 158626), "F16")
    assert kinds["head_code.0.weight"] == ((6562, 768), "F32")
    assert kinds["emb_text.weight"] == ((768, 152064), "F32")
    assert kinds["projector_spk.linear1.weight"] == ((4096, 768), "F16")
    # What the published file holds beside its tensors and their records: the tokenizer and some 30 keys, less
    # than 6000 bytes of which are not the vocabulary's.
    records = sum(24 + len(t.name) + 8 * len(t.shape) for t in plan.tensors)
    assert 0 < 1_157_244_416 - plan.tensor_size() - records - 6_086_808 < 400
    assert not any(key.name.startswith("omni.") for key in plan.metadata)
    assert plan_projector(TtsSizes(), 4096, "x").file_size() == 14_948_640


def test_published_token2wav_files() -> None:
    plans = [*plan_flow(FlowSizes()), plan_vocoder(VocoderSizes())]
    assert [p.path.split("/")[1] for p in plans] == [
        "encoder.gguf",
        "flow_matching.gguf",
        "flow_extra.gguf",
        "hifigan2.gguf",
    ]
    assert [count(p) for p in plans] == [(206, 37831168), (394, 114555472), (5, 3415712), (246, 20806557)]
    published = [151_339_008, 458_250_240, 13_663_328, 83_242_816]
    # Their few short keys are not known; ours take at most as much room.
    assert all(0 <= size - p.file_size() <= 160 for p, size in zip(plans, published, strict=True))
    shapes = {t.name: t.shape[::-1] for p in plans for t in p.tensors}
    assert shapes["ups.0.weight"] == (16, 256, 512)
    assert shapes["encoders.5.self_attn.pos_bias_u"] == (64, 8)
    assert shapes["estimator.blocks.15.adaLN_modulation.1.weight"] == (512, 4608)
    assert shapes["pre_lookahead_layer.conv1.weight"] == (4, 512, 512)


def test_published_files_of_our_own() -> None:
    causal = plan_vocoder(VocoderSizes(causal=True))
    shapes = {t.name: t.shape for t in causal.tensors}
    assert shapes["ups.0.weight"] == (256, 512, 16)
    assert shapes["conv_pre.weight"] == (512, 80, 5)
    assert shapes["f0_predictor.condnet.0.weight"] == (512, 80, 4)
    assert count(plan_speech_tokenizer(SpeechTokenizerSizes()))[1] == 123_714_568
    speaker = {t.name: t.shape for t in plan_speaker(SpeakerSizes()).tensors}
    assert speaker["xvector.block2.tdnnd1.linear1.weight"] == (128, 256, 1)
    assert speaker["xvector.block3.tdnnd16.linear1.weight"] == (128, 992, 1)
    assert speaker["xvector.transit3.linear.weight"] == (512, 1024, 1)
    assert speaker["xvector.dense.linear.weight"] == (192, 1024, 1)


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a torch.save file by the reader under test (its own tests compare with raw bytes)."""
    file = TorchFile(path)
    return {name: file.read(name) for name in file.shapes()}


def test_flow_values(tiny_model_dir: Path, tiny_checkpoint: Path) -> None:
    wanted = weights_of(tiny_checkpoint / "assets" / "token2wav" / "flow.pt")
    found = {}
    for name, prefix in (("encoder", "encoder."), ("flow_matching", "decoder."), ("flow_extra", "")):
        tensors = tensors_of(tiny_model_dir / "token2wav-gguf" / f"{name}.gguf")
        found |= {prefix + tensor: values for tensor, values in tensors.items()}
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def check_vocoder(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Plain tensors equal, normalised ones merged."""
    assert len(found) == 246
    for name, values in found.items():
        base = name.removesuffix(".weight") + ".parametrizations.weight.original"
        if base + "1" not in wanted:
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)
            continue
        g, v = wanted[base + "0"].astype(np.float64), wanted[base + "1"].astype(np.float64)
        norm = np.sqrt((v**2).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
        np.testing.assert_allclose(values, g * v / norm, rtol=2**-23, atol=0, err_msg=name)


def test_vocoder_values(tiny_model_dir: Path, tiny_checkpoint: Path) -> None:
    wanted = weights_of(tiny_checkpoint / "assets" / "token2wav" / "hift.pt")
    check_vocoder(tensors_of(tiny_model_dir / "token2wav-gguf" / "hifigan2.gguf"), wanted)
    assert not (tiny_model_dir / "token2wav-gguf" / "causal_vocoder.gguf").exists()


def test_later_layout_gives_both_vocoders(
    tiny_model_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, later = (tiny_checkpoint / "assets" / name for name in ("token2wav", "token2wav_v107"))
    folder = tmp_path / "token2wav"
    folder.mkdir()
    for name in ("flow.pt", "campplus.onnx", "speech_tokenizer_v2_25hz.onnx"):
        shutil.copyfile(first / name, folder / name)
    shutil.copyfile(first / "hift.pt", folder / "hift_original.pt")
    shutil.copyfile(later / "hift.pt", folder / "hift.pt")
    convert(tiny_checkpoint, tmp_path / "out", Options(only=frozenset({"token2wav"}), token2wav=folder))
    out = tmp_path / "out" / "token2wav-gguf"
    check_vocoder(tensors_of(out / "causal_vocoder.gguf"), weights_of(later / "hift.pt"))
    for name in ("hifigan2.gguf", "encoder.gguf", "speaker_encoder.gguf"):
        assert (out / name).read_bytes() == (tiny_model_dir / "token2wav-gguf" / name).read_bytes()


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_speech_tokenizer_values(tiny_model_dir: Path, tiny_checkpoint: Path) -> None:
    stored = initializers(tiny_checkpoint / "assets" / "token2wav" / "speech_tokenizer_v2_25hz.onnx")
    found = tensors_of(tiny_model_dir / "token2wav-gguf" / "speech_tokenizer.gguf")
    block = "encoder.blocks.0."
    plain = {
        "encoder.conv1.weight": "onnx::Conv_2216",
        "encoder.conv1.bias": "onnx::Conv_2217",
        "encoder.conv2.weight": "onnx::Conv_2218",
        "encoder.conv2.bias": "onnx::Conv_2219",
        "quantizer._codebook.project_down.bias": "quantizer.project_in.bias",
    }
    for part in (
        "attn_ln.weight",
        "attn_ln.bias",
        "mlp_ln.weight",
        "mlp_ln.bias",
        "mlp.0.bias",
        "mlp.2.bias",
    ):
        plain[block + part] = f"encoders.blocks.0.{part}"
    for part in ("query.bias", "value.bias", "out.bias", "fsmn_block.weight"):
        plain[f"{block}attn.{part}"] = f"encoders.blocks.0.attn.{part}"
    turned = {
        f"{block}attn.query.weight": "onnx::MatMul_2301",
        f"{block}attn.key.weight": "onnx::MatMul_2302",
        f"{block}attn.value.weight": "onnx::MatMul_2303",
        f"{block}attn.out.weight": "onnx::MatMul_2304",
        f"{block}mlp.0.weight": "onnx::MatMul_2305",
        f"{block}mlp.2.weight": "onnx::MatMul_2306",
        "quantizer._codebook.project_down.weight": "onnx::MatMul_2536",
    }
    assert set(found) == set(plain) | set(turned)
    for ours, name in plain.items():
        np.testing.assert_array_equal(found[ours], stored[name], err_msg=ours)
    for ours, name in turned.items():
        np.testing.assert_array_equal(found[ours], stored[name].T, err_msg=ours)


def test_speaker_encoder_values(tiny_model_dir: Path, tiny_checkpoint: Path) -> None:
    stored = initializers(tiny_checkpoint / "assets" / "token2wav" / "campplus.onnx")
    found = tensors_of(tiny_model_dir / "token2wav-gguf" / "speaker_encoder.gguf")
    named = {name for name in stored if name.startswith("xvector.")}
    assert named < set(found)
    for name in named:
        np.testing.assert_array_equal(found[name], stored[name], err_msg=name)
    numbered = {
        "head.conv1": 692,
        "head.layer1.0.conv1": 695,
        "head.layer1.0.conv2": 698,
        "head.layer1.0.shortcut.0": 701,
        "head.layer1.1.conv1": 704,
        "head.layer1.1.conv2": 707,
        "head.layer2.0.conv1": 710,
        "head.layer2.0.conv2": 713,
        "head.layer2.0.shortcut.0": 716,
        "head.layer2.1.conv1": 719,
        "head.layer2.1.conv2": 722,
        "head.conv2": 725,
        "xvector.tdnn.linear": 728,
        "xvector.block1.tdnnd1.linear1": 731,
        "xvector.block1.tdnnd2.linear1": 734,
        "xvector.block2.tdnnd1.linear1": 737,
        "xvector.block2.tdnnd2.linear1": 740,
        "xvector.block3.tdnnd1.linear1": 743,
        "xvector.block3.tdnnd2.linear1": 746,
        "xvector.transit3.linear": 749,
    }
    for module, number in numbered.items():
        np.testing.assert_array_equal(
            found[f"{module}.weight"], stored[f"onnx::Conv_{number}"], err_msg=module
        )
        np.testing.assert_array_equal(
            found[f"{module}.bias"], stored[f"onnx::Conv_{number + 1}"], err_msg=module
        )
    assert set(found) == named | {f"{module}.{part}" for module in numbered for part in ("weight", "bias")}


def test_dry_run_needs_only_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "minicpmo", "drop_vision_last_layer": false}')
    command = [sys.executable, "-m", "omni.convert", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--dry-run", "--json", "--quiet"], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    sizes = {file["path"]: file["bytes"] for file in result["files"]}
    assert not result["written"]
    assert not (tmp_path / "out").exists()
    assert sizes["vision/MiniCPM-o-4_5-vision-F16.gguf"] == 1_095_113_184
    assert sizes["audio/MiniCPM-o-4_5-audio-F16.gguf"] == 660_167_904
    assert sizes["tts/MiniCPM-o-4_5-projector-F16.gguf"] == 14_948_640
    assert len(sizes) == 11
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1  # no weights to convert
