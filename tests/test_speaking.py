"""Spoken answers, streamed and whole: parity with the reference, and no last word is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import relative_rms
from numpy.typing import NDArray
from test_token2wav import prompt_cache

import omni
from omni.audio_io import load_audio
from omni.images import load_image
from omni.simplex import TextGroup
from omni.speaking import Speaker, TTSSamplingParams, spoken_span

# As in test_token2wav: the excitation's phase is a large float32 number. The reference's samples are int16.
WAVE = 4e-3
GREEDY: dict[str, Any] = {"temperature": 0}
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> omni.MiniCPMO:
    model = omni.MiniCPMO.from_pretrained(
        tiny_model_dir, quirks="reference", n_ctx=1024, kv_type="f32", n_threads=1
    )
    # In full precision, to be held against the reference's sound.
    model._speaker = Speaker.load(model.files, kv_type="f32", token2wav_format="stored", n_threads=1)
    return model


@pytest.fixture(scope="module")
def voice(golden: Path) -> omni.Voice:
    stored = np.load(golden / "token2wav.npz")
    return omni.Voice(stored["s3_tokens"], stored["spk_embedding"], stored["prompt_mel"])


@pytest.fixture
def quick(model: omni.MiniCPMO, voice: omni.Voice) -> omni.MiniCPMO:
    """The same model with a single flow step."""
    model.reset_session()
    model.init_token2wav_cache(voice, n_timesteps=1)
    return model


def test_sessions_equal_the_reference(
    model: omni.MiniCPMO, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = np.load(golden / "simplex.npz")
    noise = np.load(golden / "token2wav.npz")["noise"]
    wav = load_audio(golden / "inputs" / "long.wav")
    reference_voice = load_audio(golden / "inputs" / "ref.wav")
    model.init_token2wav_cache(reference_voice, noise=noise, excitation=False)
    heard: list[list[int]] = []
    sound = model.require_speaker()._sound
    assert sound is not None
    push = sound.push

    def recorded(tokens: Any, last: bool = False) -> Floats:
        heard[-1].extend(tokens)
        return push(tokens, last)

    monkeypatch.setattr(sound, "push", recorded)
    for step in json.loads(str(reference["meta"])):
        if step["kind"] == "prefill" and step["role"] == "system":
            model.streaming_prefill("s", [model.get_sys_prompt(reference_voice, mode="omni")])
        elif step["kind"] == "prefill":
            picture = [load_image(golden / "inputs" / f"{step['image']}.png")] if step["image"] else []
            second = wav[16000 * step["second"] : 16000 * (step["second"] + 1)]
            model.streaming_prefill("s", [{"role": "user", "content": [*picture, second]}])
        elif step["turn"] < 2:
            turn = step["turn"]
            heard.append([])
            answer = list(model.streaming_generate("s", tts_sampling_params=GREEDY, **step["options"]))
            windows = json.loads(str(reference[f"t{turn}_audio_tokens"]))
            # Windows begin with three tokens of silence, then with the three that looked ahead.
            assert heard[-1] == [token for window in windows for token in window[3:]]
            assert [text for _, text in answer] == step["texts"]
            assert [wave.shape for wave, _ in answer] == [(1, n) for n in step["wave_samples"]]
            for i in range(4):
                expected = reference[f"t{turn}_wave{i}"] / 32768
                assert relative_rms(answer[i][0][0], expected) < WAVE, (turn, i)


def test_steps_can_be_changed(quick: omni.MiniCPMO, voice: omni.Voice) -> None:
    def sound() -> Floats:
        stream = quick.require_speaker()._sound
        assert stream is not None
        return stream.push([1] * 30, last=True)

    one = sound()
    quick.init_tts(n_timesteps=2)
    two = sound()
    assert not np.array_equal(one, two)
    quick.init_token2wav_cache(voice)
    assert np.array_equal(sound(), two)


# ---- nothing is lost ----


class Groups:
    """An answer of so many text tokens."""

    def __init__(self, model: omni.MiniCPMO, count: int, *, ends: bool) -> None:
        ids = list(range(300, 300 + count))
        self._hidden = model.llm.forward(ids or [1], model.llm.new_cache(128), "none")[0]
        self._ids, self._ends = ids, ends

    def __iter__(self) -> Iterator[TextGroup]:
        for first in range(0, max(len(self._ids), 1), 10):
            part = self._ids[first : first + 10]
            yield TextGroup(
                part, self._hidden[first : first + len(part)], self._ends and first + 10 >= len(self._ids)
            )


# A limit stops an answer between two groups.
@pytest.mark.parametrize(
    ("count", "ends"), [(0, True), (1, True), (10, True), (10, False), (11, True), (20, True), (20, False)]
)
def test_every_speech_token_is_heard(quick: omni.MiniCPMO, count: int, ends: bool) -> None:
    """However it ends: by itself after any number of tokens, even none, or by a limit."""
    speaker = quick.require_speaker()
    # What the speech model says, by itself.
    stream = speaker.speech.stream("simplex", seed=5)
    tokens: list[int] = []
    for group in Groups(quick, count, ends=ends):
        tokens += stream.push(group.ids, group.hidden, last=group.is_last)
    tokens += stream.flush()
    assert bool(tokens) == bool(count)

    answer = list(
        speaker.speak(iter(Groups(quick, count, ends=ends)), quick.tokenizer, TTSSamplingParams(), 5)
    )
    samples = sum(wave.shape[1] for wave, _ in answer)
    # Three tokens of silence, and 3840 samples if there is more than one window.
    several = len(tokens) >= 25
    assert samples == (960 * (len(tokens) + 3) + 3840 * several if tokens else 0)
    assert all(wave.shape == (1, 24000) for wave, _ in answer[:-1])
    assert "".join(text for _, text in answer) == quick.tokenizer.decode(list(range(300, 300 + count)))


def test_an_answer_that_is_not_heard_to_its_end(quick: omni.MiniCPMO) -> None:
    speaker = quick.require_speaker()

    def answer() -> Iterator[tuple[Floats, str]]:
        return speaker.speak(iter(Groups(quick, 20, ends=True)), quick.tokenizer, TTSSamplingParams(), 5)

    whole = [wave for wave, _ in answer()]
    broken = answer()
    next(broken)
    broken.close()
    again = [wave for wave, _ in answer()]
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


# ---- whole answers ----


def ask(model: omni.MiniCPMO, path: Path, **options: Any) -> Any:
    chosen: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12, "seed": 3} | options
    return model.chat(
        msgs=[{"role": "user", "content": "hello"}],
        generate_audio=True,
        output_audio_path=str(path),
        **chosen,
    )


def test_chat_speaks(quick: omni.MiniCPMO, voice: omni.Voice, tmp_path: Path) -> None:
    path, conditions = tmp_path / "out.wav", tmp_path / "rows.npy"
    stream = ask(quick, path, stream=True, output_tts_inputs_embeds_path=str(conditions), tts_ref_audio=voice)
    assert "".join(stream) == ask(quick, tmp_path / "b.wav")
    wave = load_audio(path, 24000)
    assert stream.result.speech_tokens >= 50
    assert len(wave) == 960 * stream.result.speech_tokens
    # Every token that was generated, without the one that ends it; then text_eos and audio_bos.
    spoken = [t for t in stream.result.ids if not quick.tokenizer.decode([t]).startswith("<|im_end")]
    assert np.load(conditions).shape == (len(spoken) + 2, 64)
    assert np.array_equal(load_audio(tmp_path / "b.wav", 24000), wave)


def test_beams_are_spoken_with_their_own_states(quick: omni.MiniCPMO, tmp_path: Path) -> None:
    conditions = tmp_path / "rows.npy"
    text = ask(quick, tmp_path / "a.wav", num_beams=3, output_tts_inputs_embeds_path=str(conditions))
    prompt = quick.chat(
        msgs=[{"role": "user", "content": "hello"}],
        use_tts_template=True,
        return_prompt=True,
        max_new_tokens=1,
    )[1]
    n = len(np.load(conditions)) - 2
    ids = [*quick.tokenizer.encode(prompt), *quick.tokenizer.encode(text)][
        : len(quick.tokenizer.encode(prompt)) + n
    ]
    hidden, _ = quick.llm.forward(ids, quick.llm.new_cache(), "none")
    expected = quick.require_speaker().speech.condition(ids[-n:], hidden[-n:])
    assert relative_rms(np.load(conditions)[:n], expected) < 1e-4


def test_chat_speaks_given_text(quick: omni.MiniCPMO, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "say it"},
        {"role": "assistant", "content": "<|tts_bos|>one two three<|tts_eos|>"},
    ]
    conditions = tmp_path / "rows.npy"
    options: dict[str, Any] = {
        "teacher_forcing": True,
        "generate_audio": True,
        "output_audio_path": str(tmp_path / "a.wav"),
        "output_tts_inputs_embeds_path": str(conditions),
    }
    assert quick.chat(msgs=messages, **options) == ""
    assert len(np.load(conditions)) == len(quick.tokenizer.encode("one two three")) + 2
    assert len(load_audio(tmp_path / "a.wav", 24000)) >= 960 * 50
    messages[1]["content"] = "one"
    with pytest.raises(omni.InvalidArgumentError, match=r"tts_bos"):
        quick.chat(msgs=messages, **options)


def test_the_server_speaks_in_windows(
    quick: omni.MiniCPMO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "variant", "server")
    stream = ask(quick, tmp_path / "a.wav", stream=True)
    list(stream)
    assert len(load_audio(tmp_path / "a.wav", 24000)) == 960 * stream.result.speech_tokens + 3840


def test_the_first_clip_is_the_voice(
    quick: omni.MiniCPMO, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = load_audio(golden / "inputs" / "ref.wav")
    used: list[Any] = []
    speaker = quick.require_speaker()
    voice_of = speaker.voice_of
    monkeypatch.setattr(speaker, "voice_of", lambda recording: used.append(recording) or voice_of(recording))
    messages = [quick.get_sys_prompt(wav, "audio_assistant"), {"role": "user", "content": "hello"}]
    quick.chat(
        msgs=messages, generate_audio=True, output_audio_path=str(tmp_path / "a.wav"), max_new_tokens=3,
        num_beams=1, seed=1,
    )  # fmt: skip
    assert len(used) == 1
    np.testing.assert_array_equal(used[0], wav)


def test_without_a_voice_tokenizer_the_models_own_voice_speaks(
    tiny_model_dir: Path, golden: Path, tmp_path: Path
) -> None:
    """The official files: a default voice for five flow steps, and no network to copy others."""
    directory = tmp_path / "official"
    shutil.copytree(tiny_model_dir, directory)
    folder = directory / "token2wav-gguf"
    (folder / "speech_tokenizer.gguf").unlink()
    prompt_cache(folder / "prompt_cache.gguf", dict(np.load(golden / "token2wav.npz")))
    model = omni.MiniCPMO.from_pretrained(directory, n_ctx=512, kv_type="f32", n_threads=1)
    clip = load_audio(golden / "inputs" / "ref.wav")
    options: dict[str, Any] = {"output_audio_path": str(tmp_path / "a.wav"), "generate_audio": True}
    options |= {"max_new_tokens": 5, "num_beams": 1, "do_sample": False, "seed": 1}
    stream = model.chat(msgs=[{"role": "user", "content": [clip]}], stream=True, **options)
    assert "".join(stream)
    assert len(load_audio(tmp_path / "a.wav", 24000)) == 960 * stream.result.speech_tokens + 3840
    with pytest.raises(omni.ModelFileError, match="voice cloning"):
        model.chat(msgs=[{"role": "user", "content": "a"}], tts_ref_audio=clip, **options)
    model.init_tts(n_timesteps=5)
    with pytest.raises(omni.InvalidArgumentError, match="5 flow steps"):
        model.init_tts(n_timesteps=10)


def test_only_spoken_answers_lack_what_is_bad_to_speak(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code forbids it in all; that is a quirk."""
    asked: list[bool] = []
    forbidden = omni.simplex._ext.streaming_forbidden_ids
    monkeypatch.setattr(
        omni.simplex._ext, "streaming_forbidden_ids", lambda t: asked.append(True) or forbidden(t)
    )
    for quirks, spoken, expected in [
        ("fixed", False, False),
        ("fixed", True, True),
        ("reference", False, True),
    ]:
        asked.clear()
        model = omni.MiniCPMO.from_pretrained(
            tiny_model_dir,
            quirks=quirks,
            n_ctx=128,
            n_threads=1,
            init_tts=False,  # type: ignore[arg-type]
        )
        model.streaming_prefill("a", [{"role": "user", "content": ["hello"]}])
        assert model._simplex is not None
        list(model._simplex.generate({"greedy": True}, max_new_tokens=10, spoken=spoken))
        assert bool(asked) == expected


def test_spans(model: omni.MiniCPMO) -> None:
    tokenizer = model.tokenizer

    def spoken(text: str) -> str:
        ids = tokenizer.encode(text)
        first, end = spoken_span(ids, tokenizer, given=False)
        return tokenizer.decode(ids[first:end])

    assert spoken("a<|tts_bos|>b<|tts_eos|><|im_end|>") == "b"
    assert spoken("a<|tts_bos|>b<|tts_eos|>c<|tts_bos|>d") == "d"
    assert spoken("<|tts_bos|>b<|im_end|>\n") == "b"
    assert spoken("<|tts_bos|>") == ""
    with pytest.raises(omni.InvalidArgumentError, match="use_tts_template"):
        spoken("a")


def test_unusable_orders(tiny_model_dir: Path, quick: omni.MiniCPMO, tmp_path: Path) -> None:
    with pytest.raises(omni.InvalidArgumentError, match="output_audio_path"):
        quick.chat(msgs=[{"role": "user", "content": "hello"}], generate_audio=True)
    with pytest.raises(omni.UnsupportedError, match="tts_proj_layer"):
        ask(quick, tmp_path / "a.wav", tts_proj_layer=3)
    with pytest.raises(omni.InvalidArgumentError, match="unknown fields: tempo"):
        ask(quick, tmp_path / "a.wav", tts_sampling_params={"tempo": 1})
    with pytest.raises(omni.ModelFileError, match="nowhere"):
        ask(quick, tmp_path / "nowhere" / "a.wav")
    with pytest.raises(omni.ModelFileError, match=r"nothing\.wav"):
        quick.init_token2wav_cache("nothing.wav")
    with pytest.raises(omni.InvalidArgumentError, match=r"0\.12"):
        quick.init_token2wav_cache(np.ones(1000, np.float32) / 2)
    quick.reset_session()
    with pytest.raises(omni.InvalidArgumentError, match="no voice to speak with"):
        ask(quick, tmp_path / "a.wav")
    silent = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=64, n_threads=1, init_tts=False)
    with pytest.raises(omni.InvalidArgumentError, match="init_tts"):
        silent.chat(msgs=[{"role": "user", "content": "a"}], generate_audio=True, output_audio_path="a.wav")
