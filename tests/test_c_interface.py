"""The C examples, built through find_package(omni) against an installed library.

Set OMNI_PREFIX to the prefix that `cmake --install` filled; tools/test.sh does.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omni
from omni.audio_io import load_audio, save_wav
from omni.model_files import find_model_files

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


@pytest.fixture(scope="module")
def duplex(examples: Path) -> Path:
    """The program that holds a conversation with a WAV file."""
    return examples / "duplex"


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


def test_speech_equals_python(tiny_model_dir: Path, golden: Path, tmp_path: Path) -> None:
    """A voice from a recording, speech tokens of hidden states, and sound, through the library itself."""
    lib = ctypes.CDLL(str(next(Path(PREFIX or "").rglob("libomni.so"))))
    lib.omni_last_error.restype = ctypes.c_char_p
    files = find_model_files(tiny_model_dir)

    def call(name: str, *arguments: object) -> None:
        assert getattr(lib, name)(*arguments) == 0, lib.omni_last_error()

    def opened(name: str, *arguments: object) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        call(name, *arguments, ctypes.byref(handle))
        return handle

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    directory = str(tiny_model_dir).encode()
    sound = load_audio(golden / "inputs" / "ref.wav", 16000)
    size = ctypes.c_size_t(sound.size)
    voice = opened("omni_voice_encode", directory, pointer(sound), size, 16000)
    call("omni_voice_save", voice, str(tmp_path / "voice.gguf").encode())
    python_voice = omni.Voice.load(tmp_path / "voice.gguf")
    expected_voice = omni.VoiceEncoder(tiny_model_dir).encode(sound, 16000)
    np.testing.assert_array_equal(python_voice.tokens, expected_voice.tokens)

    model = opened("omni_speech_model_open", str(files.tts).encode(), None)
    stream = opened("omni_speech_stream_new", model, b"duplex", ctypes.c_uint64(5))
    python_model = omni.SpeechModel(files.tts)
    hidden = np.random.default_rng(0).standard_normal((4, python_model.info.llm_width)).astype(np.float32)
    ids = np.arange(4, dtype=np.int32)
    call("omni_speech_push", stream, pointer(ids), pointer(hidden), ctypes.c_size_t(4), 1)
    tokens: list[int] = []
    room = np.zeros(25, np.int32)
    count = ctypes.c_size_t(1)
    while count.value:
        call("omni_speech_next", stream, pointer(room), ctypes.byref(count))
        tokens += room[: count.value].tolist()
    assert tokens == python_model.stream("duplex", seed=5).push(ids, hidden, last=True)

    token2wav = opened("omni_token2wav_open", directory)
    steps, seed = 2, ctypes.c_uint64(3)
    speaker = opened("omni_token2wav_stream_new", token2wav, voice, steps, seed)
    said = np.arange(40, dtype=np.int32)
    call("omni_token2wav_push", speaker, pointer(said), ctypes.c_size_t(said.size), 1)
    wave: list[float] = []
    samples = np.zeros(1000, np.float32)
    count = ctypes.c_size_t(1)
    while count.value:
        call("omni_token2wav_read", speaker, pointer(samples), ctypes.c_size_t(1000), ctypes.byref(count))
        wave += samples[: count.value].tolist()
    expected = omni.Token2Wav(tiny_model_dir).stream(python_voice, steps=steps, seed=3).push(said, last=True)
    np.testing.assert_array_equal(np.asarray(wave, np.float32), expected)
    frees = ["token2wav_stream", "token2wav", "speech_stream", "speech_model", "voice"]
    for name, handle in zip(frees, [speaker, token2wav, stream, model, voice], strict=True):
        getattr(lib, f"omni_{name}_free")(handle)


def test_duplex_conversation_equals_python(
    duplex: Path, tiny_model_dir: Path, golden: Path, tmp_path: Path
) -> None:
    """The program that embeds a session, second by second, beside the Python class."""
    files = find_model_files(tiny_model_dir)
    sound, voice = (
        load_audio(golden / "inputs" / "long.wav")[: 5 * 16000 - 100],
        golden / "inputs" / "ref.wav",
    )
    save_wav(tmp_path / "question.wav", sound, 16000)
    save_wav(tmp_path / "voice.wav", load_audio(voice), 16000)
    paths = [files.llm, files.audio, files.tts, tiny_model_dir]
    wavs = [tmp_path / name for name in ("voice.wav", "question.wav", "answer.wav")]
    result = run(duplex, *map(str, paths + wavs))
    assert result.returncode == 0, result.stderr

    model = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=4096)
    text, wave, quiet = "", [], 0
    seconds = list(np.concatenate([load_audio(wavs[1]), np.zeros(100, np.float32)]).reshape(-1, 16000))
    with omni.DuplexSession(model, ref_audio=load_audio(wavs[0]), greedy=True, real_time=False) as session:
        while seconds or (session.units < 15 and quiet < 2):
            quiet = 0 if seconds else quiet
            session.push_audio(seconds.pop(0) if seconds else np.zeros(16000, np.float32))
            for event in session:
                if isinstance(event, omni.TextEvent):
                    text += event.text
                elif isinstance(event, omni.AudioEvent):
                    wave.append(event.samples)
                elif isinstance(event, omni.TurnEndEvent):
                    text += "\n"
                elif isinstance(event, omni.UnitEvent):
                    quiet = quiet + 1 if event.is_listen else 0
                    break
    assert wave, "the model speaks"
    assert result.stdout == text
    answer = load_audio(wavs[2], 24000)
    np.testing.assert_allclose(answer, np.clip(np.concatenate(wave), -1, 1), atol=1.01 / 32768)


def test_duplex_program_refuses(duplex: Path, tiny_model_dir: Path, golden: Path, tmp_path: Path) -> None:
    files = find_model_files(tiny_model_dir)
    assert run(duplex).returncode == 2
    voice, answer = str(golden / "inputs" / "ref.wav"), str(tmp_path / "answer.wav")
    paths = [str(path) for path in (files.llm, files.audio, files.tts, tiny_model_dir)]
    cut = tmp_path / "cut.wav"
    heads = (b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff")
    for head in heads:
        cut.write_bytes(head)
        result = run(duplex, *paths, voice, str(cut), answer)
        assert result.returncode == 1
        assert "WAV" in result.stderr
    result = run(duplex, paths[1], *paths[1:], voice, voice, answer)
    assert result.returncode == 1
    assert Path(paths[1]).name in result.stderr
