"""Encoders, `omni.quantize` and `omni.info`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import raw_safetensors

from omni import _ext
from omni.convert import Options, convert
from omni.convert.gguf_source import GgufSource
from omni.convert.requantize import plan_requantization, requantize
from omni.errors import FormatError, InvalidArgumentError, UnsupportedError

# Largest error of one number in a block whose largest magnitude is 1, by the type's grid: half a step, where
# a step is the span over the number of levels; K types also round their block scales to 6 (Q6_K: 8) bits.
ERROR_BOUNDS = {
    "F32": 0.0,
    "F16": 2.0**-12,
    "BF16": 2.0**-9,
    "Q8_0": 0.5 / 127 + 2.0**-11,
    "Q6_K": 1 / 32 + 2 / 127,
    "Q5_K": 1 / 31 + 2 / 63,
    "Q5_1": 1 / 31 + 2.0**-10,
    "Q5_0": 1 / 16 + 2.0**-10,
    "Q4_K": 1 / 15 + 2 / 63,
    "Q4_1": 1 / 15 + 2.0**-10,
    "Q4_0": 1 / 8 + 2.0**-10,
}


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    values = np.random.default_rng(7).uniform(-1, 1, (33, 512)).astype(np.float32)
    values[3] = 0
    return values


@pytest.mark.parametrize("kind", ERROR_BOUNDS)
def test_round_trip_within_the_grid(kind: str, numbers: np.ndarray) -> None:
    encoded = _ext.quantize(numbers, kind)
    decoded = _ext.dequantize(encoded, kind, 512)
    assert np.abs(decoded - numbers).max() <= ERROR_BOUNDS[kind]
    assert not decoded[3].any()
    # The gguf package decodes the same bytes to the same numbers, up to its own order of float operations.
    theirs = gguf.dequantize(encoded, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(theirs.reshape(decoded.shape), decoded, rtol=0, atol=2.0**-22)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K"])
def test_threads_change_nothing(kind: str) -> None:
    values = np.random.default_rng(8).standard_normal((1024, 512)).astype(np.float32)
    one = _ext.quantize(values, kind, 1)
    np.testing.assert_array_equal(one, _ext.quantize(values, kind, 7))
    np.testing.assert_array_equal(_ext.dequantize(one, kind, 512, 1), _ext.dequantize(one, kind, 512, 5))


def test_encoders_refuse_what_they_cannot_hold() -> None:
    row = np.ones((2, 32), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"Q9_Z.*choose one of.*Q4_K"):
        _ext.quantize(row, "Q9_Z")
    with pytest.raises(InvalidArgumentError, match="rows of 32 numbers can't be stored as Q4_K"):
        _ext.quantize(row, "Q4_K")
    for bad in (np.nan, np.inf, -np.inf):
        row[1, 5] = bad
        for kind in ("F32", "F16", "Q8_0"):
            with pytest.raises(InvalidArgumentError, match="row 1, column 5"):
                _ext.quantize(row, kind)
    row[1, 5] = 65519  # rounds to the largest F16 number, 65504
    assert _ext.dequantize(_ext.quantize(row, "F16"), "F16", 32)[1, 5] == 65504
    row[1, 5] = 65520
    with pytest.raises(InvalidArgumentError, match="F16"):
        _ext.quantize(row, "F16")
    with pytest.raises(InvalidArgumentError, match="not whole rows"):
        _ext.dequantize(np.zeros(35, np.uint8), "Q8_0", 32)
    for cols in (0, -32):
        with pytest.raises(InvalidArgumentError):
            _ext.dequantize(np.zeros(34, np.uint8), "Q8_0", cols)
    assert _ext.quantize(np.zeros((0, 32), np.float32), "Q8_0").shape == (0, 34)


@pytest.fixture(scope="module")
def f16_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("f16")
    convert(tiny_checkpoint, out, Options(llm="F16"))
    return out


def quantize_file(source: Path, out: Path, kind: str) -> Path:
    opened = GgufSource(source)
    requantize(opened, plan_requantization(opened, kind, out.name), out)
    return out


def test_requantised_language_model_equals_a_direct_conversion(
    tiny_model_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = quantize_file(tiny_model_dir / "MiniCPM-o-4_5-F32.gguf", tmp_path / "requantised.gguf", "Q4_K_M")
    (direct,) = convert(tiny_checkpoint, tmp_path / "direct", Options(llm="Q4_K_M", only=frozenset({"llm"})))
    assert out.read_bytes() == direct.read_bytes()


def test_requantised_side_files_keep_everything_but_matrices(f16_dir: Path, tmp_path: Path) -> None:
    source = f16_dir / "audio" / "MiniCPM-o-4_5-audio-F16.gguf"
    out = gguf.GGUFReader(quantize_file(source, tmp_path / "audio.gguf", "Q8_0"))
    before = {t.name: t for t in gguf.GGUFReader(source).tensors}
    assert out.fields["general.file_type"].contents() == 7
    assert out.fields["filters"].contents() == gguf.GGUFReader(source).fields["filters"].contents()
    changed = {t.name for t in out.tensors if t.tensor_type != before[t.name].tensor_type}
    assert "encoder.blocks.1.mlp.2.weight" in changed
    assert "audio_projector.linear1.weight" in changed
    assert len(changed) == 3 * 6 + 2
    for tensor in out.tensors:
        if tensor.name not in changed:
            np.testing.assert_array_equal(tensor.data, before[tensor.name].data)


@pytest.mark.parametrize("name", ["encoder", "flow_matching", "speech_tokenizer"])
def test_flow_matrices_quantise(f16_dir: Path, tmp_path: Path, name: str) -> None:
    source = f16_dir / "token2wav-gguf" / f"{name}.gguf"
    out = gguf.GGUFReader(quantize_file(source, tmp_path / f"{name}.gguf", "Q8_0"))
    kinds = {t.name: t.tensor_type.name for t in out.tensors}
    assert "Q8_0" in kinds.values()
    assert all(kinds[t.name] == "F32" for t in out.tensors if len(t.shape) != 2)


def test_quantising_twice_warns(f16_dir: Path, tmp_path: Path) -> None:
    once = quantize_file(f16_dir / "MiniCPM-o-4_5-F16.gguf", tmp_path / "once.gguf", "Q8_0")
    with pytest.warns(UserWarning, match="quantised already"):
        quantize_file(once, tmp_path / "twice.gguf", "Q4_0")
    # Tensors that keep their type are copied, not encoded again.
    same = quantize_file(once, tmp_path / "same.gguf", "Q8_0")
    assert same.read_bytes() == once.read_bytes()


def test_quantise_refuses_nonsense(f16_dir: Path, tmp_path: Path) -> None:
    llm = f16_dir / "MiniCPM-o-4_5-F16.gguf"
    with pytest.raises(InvalidArgumentError, match="Q3_X"):
        plan_requantization(GgufSource(llm), "Q3_X", "x")
    with pytest.raises(UnsupportedError, match="no matrices"):
        plan_requantization(GgufSource(f16_dir / "tts" / "MiniCPM-o-4_5-projector-F16.gguf"), "Q8_0", "x")
    with pytest.raises(InvalidArgumentError, match="is the input"):
        quantize_file(llm, llm, "Q8_0")
    (tmp_path / "there.gguf").write_bytes(b"")
    with pytest.raises(InvalidArgumentError, match="exists"):
        quantize_file(llm, tmp_path / "there.gguf", "Q8_0")
    (tmp_path / "cut.gguf").write_bytes(llm.read_bytes()[:-64])
    with pytest.raises(FormatError, match=r"cut\.gguf"):
        GgufSource(tmp_path / "cut.gguf")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)


def test_info_command(tiny_model_dir: Path, tiny_checkpoint: Path) -> None:
    done = run("omni.info", str(tiny_model_dir), "--json")
    assert done.returncode == 0, done.stderr
    files = {Path(f["path"]).name: f for f in json.loads(done.stdout)["files"]}
    assert len(files) == 11
    llm = files["MiniCPM-o-4_5-F32.gguf"]
    source = raw_safetensors(tiny_checkpoint / "model.safetensors")
    assert llm["parameters"] == sum(v.size for n, v in source.items() if n.startswith("llm."))
    assert llm["bytes_by_type"] == {"F32": 4 * llm["parameters"]}
    assert llm["metadata"]["qwen3.block_count"] == "3"
    assert llm["metadata"]["tokenizer.ggml.tokens"] == "[1302 texts]"
    table = next(t for t in llm["tensors"] if t["name"] == "token_embd.weight")
    assert table["shape"] == [256, 1302]
    text = run("omni.info", llm["path"]).stdout
    assert "token_embd.weight" in text
    assert "256 x 1302" in text
    assert "qwen3.block_count" in text


def test_commands_fail_with_one_line(tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    for arguments, code, message in [
        (["omni.info", str(tmp_path / "absent.gguf")], 1, "absent.gguf"),
        (["omni.info", str(tmp_path / "bad.gguf")], 1, "bad.gguf"),
        (["omni.info", "--wrong"], 2, "usage"),
        (["omni.quantize", str(tmp_path / "bad.gguf"), str(tmp_path / "o.gguf"), "Q8_0"], 1, "bad.gguf"),
        (["omni.quantize", str(tiny_model_dir / "MiniCPM-o-4_5-F32.gguf"), "o.gguf", "Q1_Z"], 2, "Q1_Z"),
        (["omni.convert", str(tmp_path), str(tmp_path / "out")], 1, "config.json"),
        (["omni.convert", str(tmp_path), "out", "--dtype", "F32", "--llm", "Q4_0"], 2, "--dtype"),
    ]:
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout


def test_quantize_command(f16_dir: Path, tmp_path: Path) -> None:
    source, out = f16_dir / "MiniCPM-o-4_5-F16.gguf", tmp_path / "q.gguf"
    done = run("omni.quantize", str(source), str(out), "q5_k_m", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == out.stat().st_size < source.stat().st_size
    assert not done.stderr
