"""The C example, built through find_package(omni) against an installed library.

Set OMNI_PREFIX to the prefix that `cmake --install` filled; tools/test.sh does.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import omni

PREFIX = os.environ.get("OMNI_PREFIX")
CMAKE = os.environ.get("CMAKE", "cmake")
EXAMPLE = Path(__file__).parents[1] / "examples" / "c"

if not PREFIX:
    pytest.skip("OMNI_PREFIX names no installed library", allow_module_level=True)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example program."""
    build = tmp_path_factory.mktemp("c-example")
    configure = [CMAKE, "-S", str(EXAMPLE), "-B", str(build), f"-DCMAKE_PREFIX_PATH={PREFIX}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run([CMAKE, "--build", str(build)], check=True, capture_output=True)
    return build / "complete"


def run(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *args], capture_output=True, text=True, check=False)


def test_same_text_as_python(complete: Path, tiny_model_dir: Path) -> None:
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    result = run(complete, str(path), "Hello, world", "12")
    assert result.returncode == 0, result.stderr
    tokenizer = omni.Tokenizer(path)
    model = omni.LanguageModel(path)
    cache = model.new_cache()
    sampler = omni.ChatSampler(model.info.n_vocab, [], greedy=True)
    _, logits = model.forward(np.asarray(tokenizer.encode("Hello, world")), cache)
    expected = b""
    for _ in range(12):
        token = sampler.sample(logits[0])
        if token == tokenizer.id_of("<|im_end|>"):
            break
        expected += tokenizer.decode([token], skip_special=True).encode()
        _, logits = model.forward([token], cache)
    assert result.stdout.encode() == expected + b"\n"


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
