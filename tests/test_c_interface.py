"""The C examples, built through find_package(omni) against an installed library.

Set OMNI_PREFIX to the prefix that `cmake --install` filled; tools/test.sh does.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omni

PREFIX = os.environ.get("OMNI_PREFIX")
CMAKE = os.environ.get("CMAKE", "cmake")
EXAMPLE = Path(__file__).parents[1] / "examples" / "c"

if not PREFIX:
    pytest.skip("OMNI_PREFIX names no installed library", allow_module_level=True)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the example programs."""
    build = tmp_path_factory.mktemp("c-example")
    configure = [CMAKE, "-S", str(EXAMPLE), "-B", str(build), f"-DCMAKE_PREFIX_PATH={PREFIX}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run([CMAKE, "--build", str(build)], check=True, capture_output=True)
    return build


@pytest.fixture(scope="module")
def complete(examples: Path) -> Path:
    """The program that continues a text."""
    return examples / "complete"


@pytest.fixture(scope="module")
def describe(examples: Path) -> Path:
    """The program that answers questions about pictures."""
    return examples / "describe"


def run(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *args], capture_output=True, text=True, check=False)


def greedy(
    tokenizer: omni.Tokenizer, model: omni.LanguageModel, cache: omni.Cache, logits: np.ndarray, n: int
) -> bytes:
    """What the programs print: the best tokens behind what the cache holds."""
    sampler = omni.ChatSampler(model.info.n_vocab, [], greedy=True)
    text = b""
    for _ in range(n):
        token = sampler.sample(logits[0])
        if token == tokenizer.id_of("<|im_end|>"):
            break
        text += tokenizer.decode([token], skip_special=True).encode()
        _, logits = model.forward([token], cache)
    return text + b"\n"


def test_same_text_as_python(complete: Path, tiny_model_dir: Path) -> None:
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    result = run(complete, str(path), "Hello, world", "12")
    assert result.returncode == 0, result.stderr
    tokenizer = omni.Tokenizer(path)
    model = omni.LanguageModel(path)
    cache = model.new_cache()
    _, logits = model.forward(np.asarray(tokenizer.encode("Hello, world")), cache)
    assert result.stdout.encode() == greedy(tokenizer, model, cache, logits, 12)


def test_errors_reach_the_user(complete: Path, tmp_path: Path) -> None:
    assert run(complete).returncode == 2
    missing = run(complete, str(tmp_path / "nowhere.gguf"), "x")
    assert missing.returncode == 1
    assert "nowhere.gguf" in missing.stderr
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0")
    result = run(complete, str(broken), "x")
    assert result.returncode == 1
    assert "format error" in result.stderr


@pytest.mark.parametrize("name", ["square", "wide"])
def test_same_answer_as_python(
    name: str, describe: Path, tiny_model_dir: Path, golden: Path, tmp_path: Path
) -> None:
    """One picture that is a single slice and one that has a grid."""
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    (vision_path,) = (tiny_model_dir / "vision").glob("*.gguf")
    picture = Image.open(golden / "inputs" / f"{name}.png").convert("RGB")
    picture.save(tmp_path / "a.ppm")
    result = run(describe, str(path), str(vision_path), str(tmp_path / "a.ppm"), "What is this?", "8")
    assert result.returncode == 0, result.stderr
    tokenizer, model = omni.Tokenizer(path), omni.LanguageModel(path)
    embeds = omni.VisionEncoder(vision_path).encode(picture)
    _, grid = omni.VisionEncoder(vision_path).slices(picture)
    assert (grid is not None) == (name == "wide")
    cache = model.new_cache()
    text = "<|im_start|>user\n" + omni._ext.image_placeholder(None, *(grid or (0, 0)))
    text += "\nWhat is this?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ids = np.asarray(tokenizer.encode(text), dtype=np.int32)
    rows = model.embed(ids)
    rows[ids == tokenizer.id_of("<unk>")] = embeds.reshape(-1, embeds.shape[-1])
    _, logits = model.forward(rows, cache)
    assert result.stdout.encode() == greedy(tokenizer, model, cache, logits, 8)


def test_describe_refuses(describe: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    (vision_path,) = (tiny_model_dir / "vision").glob("*.gguf")
    assert run(describe).returncode == 2
    cut = tmp_path / "cut.ppm"
    for content in (b"", b"P6", b"P6 9 9 255\nabc", b"P6 99999999999 1 255\n", b"P5 1 1 255\nabc"):
        cut.write_bytes(content)
        result = run(describe, str(path), str(vision_path), str(cut), "?")
        assert result.returncode == 1
        assert "PPM" in result.stderr
    cut.write_bytes(b"P6 # one pixel\n1 1 255\nabc")
    swapped = run(describe, str(path), str(path), str(cut), "?")
    assert swapped.returncode == 1
    assert "vision" in swapped.stderr
