"""The official files at their real sizes: the converter's plans beside the written-down layout."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from official_layout import OfficialFile, official_layout, published_plans, write_sparse

import omni
from omni import _ext
from omni.convert.job import Options, plan_conversion
from omni.convert.plan import FilePlan, Key
from omni.model_check import check_model_files
from omni.model_files import find_model_files

LAYOUT = official_layout()
CACHE = "token2wav-gguf/prompt_cache.gguf"  # is made from a voice, not from a checkpoint
KNOWN = [path for path, file in LAYOUT.items() if file.bytes is not None]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FilePlan]:
    """What a dry run of the converter says for the published sizes."""
    directory = tmp_path_factory.mktemp("config")
    (directory / "config.json").write_text('{"model_type": "minicpmo", "drop_vision_last_layer": false}')
    jobs = plan_conversion(directory, Options(llm="F16"), need_weights=False)
    return {job.plan.path: job.plan for job in jobs}


def tensors(plan: FilePlan) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {t.name: (t.type, t.shape[::-1]) for t in plan.tensors}


def value_text(key: Key) -> str:
    if key.kind.endswith("[]"):
        assert isinstance(key.value, (list, tuple))
        return ",".join(map(str, key.value)) if len(key.value) < 9 else f"{len(key.value)} values"
    return str(key.value)


@pytest.mark.parametrize("path", [path for path in LAYOUT if path != CACHE])
def test_every_tensor(plans: dict[str, FilePlan], path: str) -> None:
    wanted, found = LAYOUT[path], tensors(plans[path])
    assert len(plans[path].tensors) == len(wanted.tensors) == wanted.n_tensors
    assert sorted(found) == sorted(wanted.tensors)
    assert {n: (found[n], wanted.tensors[n]) for n in found if found[n] != wanted.tensors[n]} == {}


@pytest.mark.parametrize("path", [path for path in LAYOUT if path != CACHE and LAYOUT[path].keys])
def test_every_key(plans: dict[str, FilePlan], path: str) -> None:
    wanted = LAYOUT[path].keys
    found = {key.name: (key.kind, value_text(key)) for key in plans[path].metadata}
    for name, (kind, value) in wanted.items():
        assert found[name][0] == kind, name
        same = found[name][1] == value or (kind == "f32" and float(found[name][1]) == float(value))
        assert same, (name, found[name], value)
    if path in KNOWN:
        assert set(found) == set(wanted)


@pytest.mark.parametrize("path", KNOWN)
def test_published_bytes(plans: dict[str, FilePlan], path: str) -> None:
    plan = LAYOUT[path].plan() if path == CACHE else plans[path]
    assert plan.file_size() == LAYOUT[path].bytes


def test_everything_else_that_is_planned_is_our_own(plans: dict[str, FilePlan]) -> None:
    own = {"token2wav-gguf/speech_tokenizer.gguf", "token2wav-gguf/speaker_encoder.gguf"}
    assert set(plans) == (set(LAYOUT) - {CACHE}) | own


def test_the_default_voice(tmp_path: Path) -> None:
    path = write_sparse(LAYOUT[CACHE].plan(), tmp_path)
    assert path.stat().st_size == 211_613_152
    voice = omni.Voice.load(path)
    assert (voice.cache_steps, len(voice.embedding)) == (5, 192)


@pytest.mark.skipif(os.name == "nt", reason="its files are not sparse")
def test_the_whole_set_is_checked_within_a_second(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for plan in published_plans(tiny_checkpoint, "Q4_K_M"):
        write_sparse(plan, tmp_path)
    files = find_model_files(tmp_path)
    assert None not in vars(files).values()
    start = time.process_time()
    check_model_files(files)
    assert time.process_time() - start < 1
    tokenizer = _ext.Tokenizer(str(files.llm))
    assert [tokenizer.required_id(t) for t in ("<|endoftext|>", "<|tts_bos|>", "<|chunk_eos|>")] == [
        151643,
        151703,
        151718,
    ]
    vision = LAYOUT["vision/MiniCPM-o-4_5-vision-F16.gguf"]
    other = OfficialFile(vision.path, vision.n_tensors, None, {"general.architecture": ("str", "clip")})
    other.tensors = vision.tensors | {"resampler.proj.weight": ("F16", (3584, 3584))}  # of MiniCPM-o 2.6
    write_sparse(other.plan(), tmp_path)
    with pytest.raises(omni.FormatError, match=r"vision-F16.*width 3584; .*Q4_K_M.gguf has 4096"):
        check_model_files(files)
