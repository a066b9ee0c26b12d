"""Wrong, old, truncated and mixed sets of files: the file and the reason are named before loading."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_edit import edit_gguf
from test_token2wav import prompt_cache

import omni
from omni.model_check import check_model_files
from omni.model_files import find_model_files

LLM = "MiniCPM-o-4_5-F32.gguf"
VISION = "vision/MiniCPM-o-4_5-vision-F32.gguf"
AUDIO = "audio/MiniCPM-o-4_5-audio-F32.gguf"
TTS = "tts/MiniCPM-o-4_5-tts-F32.gguf"
PROJECTOR = "tts/MiniCPM-o-4_5-projector-F16.gguf"


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The files as links, to be replaced one by one."""
    for path in tiny_model_dir.rglob("*.gguf"):
        link = tmp_path / "model" / path.relative_to(tiny_model_dir)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return tmp_path / "model"


def reshape(file: str, tensor: str, *shape: int) -> Callable[[Path], None]:
    """Gives a tensor another shape, slowest dimension first."""
    return lambda model: edit(model / file, tensors={tensor: np.zeros(shape, np.float32)})


def edit(path: Path, **changes: object) -> None:
    edit_gguf(path, path.with_suffix(".new"), **changes)  # type: ignore[arg-type]
    path.with_suffix(".new").replace(path)


def replace(file: str, by: str) -> Callable[[Path], None]:
    """Puts another file of the set in a file's place."""
    return lambda model: replace_file(model / file, (model / by).read_bytes())


def write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda model: replace_file(model / file, content)


def replace_file(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def truncate(file: str) -> Callable[[Path], None]:
    return lambda model: replace_file(model / file, (model / file).read_bytes()[:-4096])


def delete(file: str) -> Callable[[Path], None]:
    return lambda model: (model / file).unlink()


def drop(file: str, start: str) -> Callable[[Path], None]:
    """Leaves out the tensors whose names begin so."""
    return lambda model: edit(model / file, rename=lambda n: None if n.startswith(start) else n)


def other_tokens(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def run(model: Path) -> None:
        tokens = gguf.GGUFReader(model / file).fields["tokenizer.ggml.tokens"].contents()
        edit(model / file, keys={"tokenizer.ggml.tokens": change(tokens)})

    return run


def bare_speech_model(model: Path) -> None:
    delete(PROJECTOR)(model)
    drop(TTS, "projector_semantic")(model)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (
            reshape(VISION, "resampler.proj.weight", 128, 128),
            VISION,
            "width 128; .*has 256: the files",
        ),
        (reshape(AUDIO, "audio_projector.linear2.bias", 512), AUDIO, "width 512; .* has 256"),
        (reshape(PROJECTOR, "linear1.weight", 64, 512), PROJECTOR, "width 512; .* has 256"),
        (reshape(PROJECTOR, "linear1.weight", 32, 256), PROJECTOR, "gives 32 values; .* takes 64"),
        (reshape(TTS, "emb_text.weight", 1000, 64), TTS, "knows 1000 text tokens; .* has 1302"),
        (reshape(TTS, "emb_code.0.weight", 4097, 64), "token2wav-gguf/flow_extra.gguf", "6561 .* makes 4096"),
        (replace(LLM, AUDIO), LLM, "holds a sound encoder, where a language model should be"),
        (replace(VISION, AUDIO), VISION, "holds a sound encoder, where a picture encoder should be"),
        (replace(TTS, LLM), TTS, "holds a language model, where a speech model should be"),
        (replace(AUDIO, "token2wav-gguf/encoder.gguf"), AUDIO, r"no tensor 'audio_projector\.linear2\.bias'"),
        (drop(VISION, "resampler.proj"), VISION, "older version of its files"),
        (drop(TTS, "emb_code"), TTS, r"no tensor 'emb_code\.0\.weight'"),
        (truncate(LLM), LLM, "beyond the end|truncated"),
        (truncate(VISION), VISION, "beyond the end|truncated"),
        (truncate("token2wav-gguf/flow_extra.gguf"), "token2wav-gguf/flow_extra.gguf", "beyond|truncated"),
        (write(LLM, b""), LLM, "not a GGUF file|truncated|empty"),
        (write(AUDIO, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), AUDIO, "git lfs pull"),
        (write(AUDIO, b"<!doctype html><title>Not Found</title>"), AUDIO, "web page"),
        (bare_speech_model, PROJECTOR, "is missing, and .*tts-F32.gguf holds no projector"),
        (delete("token2wav-gguf/encoder.gguf"), "token2wav-gguf/encoder.gguf", "is missing"),
        (delete("token2wav-gguf/hifigan2.gguf"), "token2wav-gguf/hifigan2.gguf", "is missing"),
        (
            other_tokens(LLM, lambda t: [x.replace("tts_bos", "") for x in t]),
            LLM,
            r"lacks <\|tts_bos",
        ),
        (other_tokens(LLM, lambda t: [*t, "more"]), LLM, "1303 tokens and embeddings of 1302"),
        (
            other_tokens(TTS, lambda t: [*t[:99], "?", *t[100:]]),
            TTS,
            r"token 99 is '\?'; that of .* is",
        ),
    ],
)
def test_what_does_not_belong_together(
    copy: Path, damage: Callable[[Path], None], file: str, reason: str
) -> None:
    damage(copy)
    with pytest.raises((omni.FormatError, omni.ModelFileError), match=reason) as error:
        omni.MiniCPMO.from_pretrained(copy, n_threads=1)
    assert str(error.value).startswith(f"{copy / file}: ")


def test_a_set_that_belongs_together_and_parts_that_are_not_there(copy: Path, golden: Path) -> None:
    files = find_model_files(copy)
    check_model_files(files)
    delete(PROJECTOR)(copy)  # the speech model's file holds it, too
    check_model_files(find_model_files(copy))
    voice = copy / "token2wav-gguf" / "prompt_cache.gguf"
    prompt_cache(voice, dict(np.load(golden / "token2wav.npz")))
    check_model_files(find_model_files(copy))
    edit(voice, tensors={"prompt_cache.conformer_cnn_cache": np.zeros((6, 512), np.float32)})
    with pytest.raises(omni.FormatError, match=r"prompt_cache\.gguf: is a voice of width 512"):
        check_model_files(find_model_files(copy))
    # Nobody asks for what nobody uses.
    check_model_files(find_model_files(copy), {"vision", "audio"})
    for file in (VISION, AUDIO, TTS):
        delete(file)(copy)
    check_model_files(find_model_files(copy))


def test_a_vocabulary_of_the_real_size_takes_no_second(copy: Path) -> None:
    def enlarge(tokens: list[str]) -> list[str]:
        return [*tokens, *(f"more{i}" for i in range(151_748 - len(tokens)))]

    table = {"token_embd.weight": np.zeros((151_748, 32), np.float32)}
    tokens = gguf.GGUFReader(copy / LLM).fields["tokenizer.ggml.tokens"].contents()
    edit(copy / LLM, keys={"tokenizer.ggml.tokens": enlarge(tokens)}, tensors=table)
    edit(copy / TTS, tensors={"emb_text.weight": np.zeros((151_748, 4), np.float32)})
    other_tokens(TTS, lambda _: [*enlarge(tokens)[:-1], "other"])(copy)
    reshape(PROJECTOR, "linear1.weight", 4, 32)(copy)
    files = find_model_files(copy)
    start = time.process_time()
    with pytest.raises(omni.FormatError, match=r"its token 151747 is 'other'"):
        check_model_files(files, {"speech"})
    assert time.process_time() - start < 1
