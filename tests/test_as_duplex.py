"""The published full-duplex class: parity with the reference, its call sequence, and everything around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import raw_safetensors
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni.audio_io import load_audio
from omni.duplex import MiniCPMODuplex
from omni.speaking import Speaker

RATE = 16000
Floats = NDArray[np.float32]
# As in test_token2wav: the excitation's phase is a large float32 number. The reference's samples are int16.
WAVE = 4e-3
# The reference's own float32 bound is 1e-5 for a stage; here are three.
LOGITS = 1e-4
SCENARIOS = [
    "duplex_audio",
    "duplex_omni",
    "duplex_unified_audio",
    "duplex_window_basic",
    "duplex_window_context",
]


class Load:
    """Models of the tiny checkpoint in float32, one for each way of loading it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[Any, omni.MiniCPMO] = {}

    def __call__(self, quirks: Any = "fixed", variant: Any = "hub") -> omni.MiniCPMO:
        key = (quirks, variant)
        if key not in self._models:
            model = omni.MiniCPMO.from_pretrained(
                self._folder, quirks=quirks, variant=variant, n_ctx=1024, kv_type="f32", n_threads=1
            )
            assert model.files.audio
            assert model.files.vision
            model.audio = omni.AudioEncoder(
                model.files.audio, weight_format="stored", kv_type="f32", n_threads=1
            )
            model.vision = omni.VisionEncoder(model.files.vision, weight_format="stored", n_threads=1)
            model._speaker = Speaker.load(model.files, kv_type="f32", token2wav_format="stored", n_threads=1)
            self._models[key] = model
        return self._models[key]


@pytest.fixture(scope="module")
def load(tiny_model_dir: Path) -> Load:
    return Load(tiny_model_dir)


@pytest.fixture(scope="module")
def head(tiny_checkpoint: Path) -> Floats:
    """The language model's output matrix [V, D]: it makes logits of hidden states."""
    return raw_safetensors(tiny_checkpoint / "model.safetensors")["llm.lm_head.weight"]


@pytest.fixture(scope="module")
def voice(golden: Path) -> omni.Voice:
    stored = np.load(golden / "token2wav.npz")
    return omni.Voice(stored["s3_tokens"], stored["spk_embedding"], stored["prompt_mel"])


@pytest.fixture(scope="module")
def sound(golden: Path) -> Floats:
    return load_audio(golden / "inputs" / "long.wav", RATE)


@pytest.fixture(scope="module")
def scenario(golden: Path) -> dict[str, Any]:
    """The prompts of a session that both listens and speaks."""
    result: dict[str, Any] = json.loads(str(np.load(golden / "duplex_audio.npz")["scenario"]))
    return result


# ---- parity ----


@pytest.mark.parametrize("name", SCENARIOS)
def test_sessions_equal_the_reference(
    name: str, load: Load, golden: Path, sound: Floats, head: Floats
) -> None:
    data = np.load(golden / f"{name}.npz")
    scenario = json.loads(str(data["scenario"]))
    rows = json.loads(str(data["rows"]))
    server = "unified" in name
    model = load("reference", "server" if server else "hub")
    recording = golden / "inputs" / "ref.wav"
    speaks = f"c{next(i for i, row in enumerate(rows) if not row['is_listen'])}_wave" in data
    duplex = model.as_duplex(
        generate_audio=speaks,
        force_listen_count=scenario.get("force_listen", 0),
        tts_temperature=0,
        noise=np.load(golden / "token2wav.npz")["noise"],
        excitation=False,
        **scenario.get("window", {}),
    )
    duplex.prepare(
        prefix_system_prompt=scenario["prefix"],
        suffix_system_prompt=scenario["suffix"],
        ref_audio=load_audio(recording, RATE) if scenario.get("ref") else None,
        prompt_wav_path=recording,
    )
    assert duplex.cache_length == data["prepare_cache_len"]
    for chunk, row in enumerate(rows):
        frames = scenario["frames"].get(str(chunk), {})
        is_deaf = chunk in scenario.get("no_audio", [])
        fed = duplex.streaming_prefill(
            audio_waveform=None if is_deaf else sound[chunk * RATE : (chunk + 1) * RATE],
            frame_list=[golden / "inputs" / f"{image}.png" for image in frames.get("images", [])],
            max_slice_nums=frames.get("max_slice_nums", 1),
        )
        assert fed.success
        assert duplex.cache_length == row["cache_after_prefill"], chunk
        logits = duplex._logic._logits
        assert relative_rms(logits, data[f"c{chunk}_pending_logits"]) < LOGITS, chunk
        forced = chunk in scenario.get("force", [])
        result = duplex.streaming_generate(
            decode_mode="greedy",
            max_new_speak_tokens_per_chunk=scenario.get("max_tokens", 20),
            force_listen_override=forced,
        )
        unit = duplex._unit
        assert unit is not None
        assert unit.ids == row["ids"], chunk
        if server:
            assert duplex.cache_length == row["cache_before_finalize"], chunk
            duplex.finalize_unit()
        assert duplex.cache_length == row["cache_after"], chunk
        assert duplex.turn_is_open == (not row["turn_ended"]), chunk
        assert result.current_time == chunk + 1
        for field in ("is_listen", "text", "n_tts_tokens", *(() if server else ("n_tokens",))):
            assert result[field] == row[field], (chunk, field)
        assert forced or result.end_of_turn == row["end_of_turn"], chunk
        expected = {key.split("_", 1)[1]: data[key] for key in data if key.startswith(f"c{chunk}_")}
        check_sound(duplex, result, expected)
        # The state of each spoken token is that after it: it decides the next.
        if len(unit.spoken_ids) > 1 and "step_logits" in expected:
            steps = expected["step_logits"][2:]
            assert relative_rms(unit.spoken_hidden[: len(steps)] @ head.T, steps) < LOGITS
    if "schema" in data:
        assert duplex.get_session_schema() == str(data["schema"])
        assert len(duplex.get_unit_schemas()) == len(rows)
        assert "embed" not in duplex.get_session_schema(include_embeddings=False)


def check_sound(duplex: MiniCPMODuplex, result: Any, expected: dict[str, Any]) -> None:
    """What was spoken in a unit, and what it was made of."""
    unit = duplex._unit
    assert unit is not None
    if result.is_listen:
        np.testing.assert_array_equal(result.audio_waveform, np.zeros(24000, np.float32))
        return
    if "wave" not in expected:
        assert result.audio_waveform is None
        return
    speech = duplex._model.require_speaker().speech
    conditions = np.concatenate(
        [speech.condition(unit.spoken_ids, unit.spoken_hidden), speech.condition([speech.info.audio_bos])]
    )
    assert relative_rms(conditions, expected["tts_condition"]) < LOGITS
    assert duplex._tokens == expected["tts_tokens"].tolist()
    assert relative_rms(result.audio_waveform, expected["wave"] / 32768) < WAVE
    # 16-bit numbers, as the reference gives them.
    samples = result.audio_waveform.astype(np.float64) * 32768
    np.testing.assert_array_equal(samples, np.round(samples))


# ---- the published call sequence ----


class Talk:
    """A greedy session over the reference's sound; its second second speaks, the third ends the turn."""

    def __init__(self, model: omni.MiniCPMO, scenario: dict[str, Any], golden: Path, **params: Any) -> None:
        self.sound = load_audio(golden / "inputs" / "long.wav", RATE)
        self.recording = load_audio(golden / "inputs" / "ref.wav", RATE)
        self.scenario = scenario
        params = {"tts_temperature": 0, "n_timesteps": 1, "decode_mode": "greedy", "seed": 1} | params
        if model.variant == "server":
            params = {"force_listen_count": 0} | params
        self.duplex = model.as_duplex(**params)

    def begin(self, voice: Any = None) -> None:
        prompt = {f"{part}_system_prompt": self.scenario[part] for part in ("prefix", "suffix")}
        self.duplex.prepare(**prompt, ref_audio=self.recording, prompt_wav_path=voice)

    def second(self, number: int) -> Floats:
        return self.sound[number * RATE : (number + 1) * RATE]

    def unit(self, number: int, **options: Any) -> Any:
        assert self.duplex.streaming_prefill(audio_waveform=self.second(number)).success
        result = self.duplex.streaming_generate(**options)
        self.duplex.finalize_unit()
        return result

    def units(self, numbers: Sequence[int], **options: Any) -> list[dict[str, Any]]:
        return [contents(self.unit(number, **options)) for number in numbers]


def contents(result: Any) -> dict[str, Any]:
    """A result without its times, fit for comparison."""
    fields = {name: value for name, value in result.items() if not name.startswith("cost")}
    wave = fields.pop("audio_waveform")
    return fields | {"wave": None if wave is None else wave.tobytes()}


@pytest.fixture
def talk(load: Load, scenario: dict[str, Any], golden: Path) -> Talk:
    return Talk(load(), scenario, golden)


def test_the_published_calls(load: Load, golden: Path, sound: Floats) -> None:
    model = load()
    duplex = model.as_duplex()
    recording = load_audio(golden / "inputs" / "ref.wav", RATE)
    text = duplex.prepare(
        prefix_system_prompt="Talk to me.",
        ref_audio=recording,
        prompt_wav_path=str(golden / "inputs" / "ref.wav"),
    )
    prefix, suffix = "<|im_start|>system\nTalk to me.\n<|audio_start|>", "<|audio_end|><|im_end|>"
    assert text == f"{prefix}[audio embedding]{suffix}"
    encode = model.tokenizer.encode
    rows = model.require_audio().encode(recording)
    assert duplex.cache_length == len(encode(prefix)) + len(rows) + len(encode(suffix))
    for number in range(2):
        fed = duplex.streaming_prefill(
            audio_waveform=sound[number * RATE : (number + 1) * RATE],
            frame_list=[golden / "inputs" / "small.png"],
            max_slice_nums=1,
            batch_vision_feed=False,
        )
        assert fed["success"]
        assert fed["reason"] == ""
        parts = [value for name, value in fed.items() if name.startswith("cost_") and name != "cost_all"]
        assert 0 < sum(parts) <= fed["cost_all"]
        result = duplex.streaming_generate(
            prompt_wav_path="voice.wav", max_new_speak_tokens_per_chunk=20, decode_mode="sampling"
        )
        assert set(result) == {
            "is_listen", "text", "audio_waveform", "end_of_turn", "current_time", "cost_llm", "cost_tts_prep",
            "cost_tts", "cost_token2wav", "cost_all", "n_tokens", "n_tts_tokens",
        }  # fmt: skip
        assert result["current_time"] == number + 1
        assert dict(result)["is_listen"] == result.is_listen == result.get("is_listen")
        assert result.get("nothing", 3) == 3
        with pytest.raises(KeyError):
            result["nothing"]
        assert 0 < result.cost_llm <= result.cost_all
    assert duplex.as_simplex() is model


@pytest.mark.parametrize(
    ("variant", "text", "prompt"),
    [
        ("hub", None, "<|im_start|>system\nStreaming Omni Conversation.<|im_end|>"),
        ("hub", "Hello.", "<|im_start|>system\nHello.<|im_end|>"),
        ("server", "Hello.", "<|im_start|>system\nHello.\n<|audio_start|><|audio_end|><|im_end|>"),
    ],
)
def test_prompts_without_a_voice(load: Load, variant: str, text: str | None, prompt: str) -> None:
    duplex = load(variant=variant).as_duplex()
    assert duplex.prepare(text) == prompt
    assert duplex.cache_length == len(load().tokenizer.encode(prompt))
    with pytest.raises(omni.InvalidArgumentError, match="prefix_system_prompt"):
        duplex.prepare(suffix_system_prompt="a")


def test_what_as_duplex_is_told_are_defaults(load: Load, scenario: dict[str, Any], golden: Path) -> None:
    """The published class stores them and does not use them: a quirk."""
    for quirks, positions in (("fixed", 5), ("reference", 20)):
        talk = Talk(load(quirks), scenario, golden, max_new_speak_tokens_per_chunk=5)
        talk.begin()
        talk.unit(0, decode_mode="greedy")
        talk.unit(1, decode_mode="greedy")
        assert talk.duplex._unit is not None
        assert len(talk.duplex._unit.ids) == positions + 1
        talk.begin()
        talk.duplex.max_new_speak_tokens_per_chunk = 3
        talk.unit(0, decode_mode="greedy")
        assert talk.unit(1, decode_mode="greedy", max_new_speak_tokens_per_chunk=4).n_tokens == 2
    with pytest.raises(omni.InvalidArgumentError, match="decode_mode"):
        talk.duplex.streaming_generate(decode_mode="beam")


def test_defaults_of_the_variants(load: Load) -> None:
    hub, server = load().as_duplex(), load(variant="server").as_duplex()
    assert (hub.top_k, hub.force_listen_count) == (100, 0)
    assert (server.top_k, server.force_listen_count) == (20, 3)
    assert load(variant="server").as_duplex(top_k=7).top_k == 7
    with pytest.raises(omni.UnsupportedError, match="chunk_ms"):
        load().as_duplex(chunk_ms=500)
    with pytest.warns(UserWarning, match=r"as_duplex\(\) ignores the argument colour"):
        load().as_duplex(colour="red")
    with pytest.warns(UserWarning, match=r"prepare\(\) ignores the argument colour"):
        hub.prepare(colour="red")
    with pytest.raises(omni.InvalidArgumentError, match="sliding_window_mode"):
        load().as_duplex(sliding_window_mode="new")


# ---- sound that comes in ----


def rows_of(talk: Talk, pieces: Sequence[Floats]) -> list[Any]:
    """The logits behind each piece that made a unit."""
    talk.begin()
    logits = []
    for piece in pieces:
        length = talk.duplex.cache_length
        if talk.duplex.streaming_prefill(audio_waveform=piece).success:
            assert talk.duplex.cache_length == length + 11
            logits.append(talk.duplex._logic._logits)
            talk.duplex.streaming_generate(force_listen_override=True)
        else:
            assert talk.duplex.cache_length == length
    return logits


def test_sound_is_collected(talk: Talk) -> None:
    """The published rules: a first second is filled up from the left, then a second is taken a call."""
    sound = talk.sound
    whole = rows_of(talk, [sound[:16000], sound[16000:32000], sound[32000:48000]])
    filled = rows_of(talk, [np.concatenate([np.zeros(560, np.float32), sound[:16000]]), sound[16000:32000]])
    np.testing.assert_array_equal(filled, whole[:2])
    short = rows_of(talk, [sound[:4000]])
    zeros = np.zeros(12000, np.float32)
    np.testing.assert_array_equal(short, rows_of(talk, [np.concatenate([zeros, sound[:4000]])]))
    # 80 samples of the first second wait for the second one.
    late = rows_of(talk, [sound[:16000], sound[16000:31000], sound[31000:31919], sound[31919:32500]])
    np.testing.assert_array_equal(late, whole[:2])
    # What is too much is kept.
    early = rows_of(talk, [sound[:48000], np.ones(1, np.float32), np.ones(1, np.float32)])
    first = np.concatenate([sound[:48000]])
    assert len(early) == 2  # 16480 and 16000 of 48000, 15520 and two ones are left
    assert not np.array_equal(early[0], whole[0])  # without zeros before it
    np.testing.assert_array_equal(early, rows_of(talk, [first[:16560], first[16560:32560]]))


def test_too_little_sound_leaves_nothing_behind(talk: Talk, golden: Path) -> None:
    picture = golden / "inputs" / "small.png"
    talk.begin()
    talk.units([0])
    length = talk.duplex.cache_length
    fed = talk.duplex.streaming_prefill(audio_waveform=talk.second(1)[:9000], frame_list=[picture])
    assert not fed.success
    assert "9080 samples" in fed.reason
    assert talk.duplex.cache_length == length
    assert talk.duplex.streaming_generate().is_listen  # nothing to answer
    assert talk.duplex.cache_length == length
    fed = talk.duplex.streaming_prefill(audio_waveform=talk.second(1)[9000:])
    assert fed.success
    patient = contents(talk.duplex.streaming_generate())
    talk.begin()
    assert talk.units([0, 1])[1] == patient


def test_units_without_sound(talk: Talk, golden: Path) -> None:
    duplex = talk.duplex
    talk.begin()
    length = duplex.cache_length
    assert duplex.streaming_prefill(text_list=["hel", "lo"]).success
    ids = talk.duplex._model.tokenizer.encode("hello")
    assert duplex.cache_length == length + 1 + len(ids)
    assert duplex.streaming_generate().current_time == 0  # text is no unit of time
    pictures = [golden / "inputs" / f"{name}.png" for name in ("wide", "small")]
    length = duplex.cache_length
    assert duplex.streaming_prefill(frame_list=pictures, max_slice_nums=[2, 1]).success
    assert duplex.cache_length == length + 1 + 4 * 66
    assert duplex.streaming_generate().current_time == 1
    assert duplex.streaming_prefill(audio_waveform=talk.second(0), text_list=["a"]).success
    duplex.streaming_generate()
    assert not duplex.streaming_prefill().success
    assert duplex.get_session_schema().startswith("<unit>hello<|")
    assert "</image><slice>[img_embed_64]</slice><slice>" in duplex.get_unit_schemas()[1]


def test_bad_input_changes_nothing(talk: Talk) -> None:
    duplex = talk.duplex
    with pytest.raises(omni.InvalidArgumentError, match="prepare"):
        duplex.streaming_prefill(audio_waveform=talk.second(0))
    talk.begin()
    expected = talk.units([0, 1])
    talk.begin()
    picture = np.zeros((40, 40, 3), np.uint8)
    bad: list[dict[str, Any]] = [
        {"audio_waveform": np.full(16000, np.nan, np.float32)},
        {"audio_waveform": np.zeros((2, 16000), np.float32)},
        {"audio_waveform": np.zeros(16000, np.int16)},
        {"audio_waveform": np.zeros(0, np.float32)},
        {"frame_list": [np.zeros((0, 4, 3), np.uint8)]},
        {"frame_list": [picture], "max_slice_nums": 0},
        {"frame_list": [picture], "max_slice_nums": [1, 1]},
    ]
    results = []
    for number in range(2):
        for arguments in bad:
            with pytest.raises(omni.InvalidArgumentError):
                duplex.streaming_prefill(**({"audio_waveform": talk.second(5)} | arguments))
        results.append(contents(talk.unit(number)))
    assert results == expected
    assert duplex.streaming_prefill(audio_waveform=talk.second(2)).success
    again = duplex.streaming_prefill(audio_waveform=talk.second(3))
    assert not again.success
    assert "not generated" in again.reason
    with pytest.raises(omni.ModelFileError, match="nowhere"):
        duplex.prepare(ref_audio="nowhere.wav")


# ---- sound that goes out ----


class Speech:
    """A speech stream that says what it is told."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = list(counts)
        self.position = 0

    def push(self, ids: Any, hidden: Any, last: bool) -> list[int]:
        self.position = 0 if last else self.position + 1
        return [31 * i for i in range(self._counts.pop(0))]

    def flush(self) -> None:
        self.position = 0


def test_a_units_sound_is_a_second(talk: Talk, voice: omni.Voice) -> None:
    duplex = talk.duplex
    talk.begin(voice)
    assert duplex._windows is not None
    windows = duplex._windows.clone()
    duplex._speech = Speech([5, 10, 25])  # type: ignore[assignment]
    unit = type("Unit", (), {"spoken_ids": [], "spoken_hidden": None, "text": "", "end_of_turn": False})()
    first = duplex._speak(unit, 0, 0).audio_waveform
    assert first is not None
    assert first.shape == (24000,)
    np.testing.assert_array_equal(first[: 24000 - 5 * 960], 0)
    expected = windows.render(np.asarray([31 * i for i in range(5)], np.int32), True, False)
    np.testing.assert_array_equal(first[24000 - 5 * 960 :], expected)
    assert duplex._speak(unit, 0, 0).audio_waveform is None  # waits for more
    unit.end_of_turn = True
    last = duplex._speak(unit, 0, 0)
    assert last.n_tts_tokens == 25
    assert last.audio_waveform is not None
    assert last.audio_waveform.shape == (38 * 960 + 3840,)  # 13 waited


def test_without_a_voice_there_is_text(
    talk: Talk, load: Load, voice: omni.Voice, tiny_model_dir: Path
) -> None:
    talk.begin()
    result = talk.units([0, 1])[1]
    assert result["text"]
    assert result["wave"] is None
    assert result["n_tts_tokens"] == 0
    talk.begin(voice)
    assert talk.units([0, 1])[1]["n_tts_tokens"] > 0
    talk.begin()
    assert talk.units([0, 1])[1]["wave"] is None
    quiet = Talk(load(), talk.scenario, Path(__file__).parent / "golden", generate_audio=False)
    quiet.begin(voice)
    assert quiet.units([0, 1])[1]["wave"] is None
    mute = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=64, n_threads=1, init_tts=False)
    with pytest.raises(omni.InvalidArgumentError, match="init_tts"):
        mute.as_duplex().prepare(prompt_wav_path=voice)


# ---- interruptions ----


def test_a_break_and_a_stop(talk: Talk, voice: omni.Voice) -> None:
    duplex = talk.duplex
    talk.begin(voice)
    expected = talk.units([0, 1, 2])
    talk.begin(voice)
    talk.units([0, 1])
    length = duplex.cache_length
    for interrupt, resume in (
        (duplex.set_break_event, duplex.clear_break_event),
        (duplex.set_session_stop, lambda: (duplex.clear_session_stop(), duplex.clear_break_event())),
    ):
        interrupt()
        assert duplex.is_break_set()
        fed = duplex.streaming_prefill(audio_waveform=talk.second(9))
        assert not fed.success
        assert fed.reason
        result = duplex.streaming_generate()
        assert result.is_listen
        assert result.end_of_turn
        assert duplex.cache_length == length
        resume()
    # The turn goes on where it was; the sound of the break is lost.
    assert talk.units([2]) == expected[2:]
    duplex.set_session_stop()
    assert duplex.is_session_stop_set()
    duplex.clear_break_event()
    assert not duplex.streaming_prefill(audio_waveform=talk.second(0)).success
    talk.begin(voice)
    assert talk.units([0, 1, 2]) == expected


def test_a_forced_unit_closes_the_turn(
    load: Load, scenario: dict[str, Any], golden: Path, voice: Any
) -> None:
    """The reference keeps the speech model's state then: a quirk."""
    for quirks in ("fixed", "reference"):
        talk = Talk(load(quirks), scenario, golden, force_listen_count=0)
        talk.begin(voice)
        talk.units([0, 1], decode_mode="greedy")
        assert talk.duplex.turn_is_open
        assert talk.duplex._speech is not None
        assert talk.duplex._speech.position > 0
        result = talk.unit(2, force_listen_override=True)
        assert result.is_listen
        assert not talk.duplex.turn_is_open
        assert (talk.duplex._speech.position > 0) == (quirks == "reference")
        assert talk.duplex._windows is not None
        assert talk.duplex._windows.buffered == [4218] * 3


def test_the_server_variant(load: Load, scenario: dict[str, Any], golden: Path) -> None:
    talk = Talk(load(variant="server"), scenario, golden)
    duplex = talk.duplex
    talk.begin()
    assert duplex.streaming_prefill().success  # a second of silence
    length = duplex.cache_length
    duplex.streaming_generate()
    assert duplex.cache_length == length
    with pytest.raises(omni.InvalidArgumentError, match="finalize_unit"):
        duplex.streaming_prefill()
    duplex.finalize_unit()
    duplex.finalize_unit()
    assert duplex.cache_length == length + 2
    talk.begin()
    duplex.set_break_event()  # is for the caller there
    results = [talk.unit(number) for number in range(2)]
    assert not results[1].is_listen
    np.testing.assert_array_equal(results[1].audio_waveform, np.zeros(24000, np.float32))
    duplex.set_session_stop()
    assert not duplex.streaming_prefill().success


# ---- states ----


def test_a_session_begins_with_empty_ears(talk: Talk, voice: omni.Voice) -> None:
    """What an earlier session heard is forgotten."""
    talk.begin(voice)
    first = talk.units(range(4))
    assert any(not result["is_listen"] for result in first)
    said = talk.duplex.get_generated_text()
    assert said
    assert "<|speak|>" not in said
    for _ in range(2):
        talk.begin(voice)
        assert talk.duplex.get_generated_text() == ""
        assert talk.units(range(4)) == first
    assert talk.duplex.get_generated_text() == said
    talk.duplex.reset()
    with pytest.raises(omni.InvalidArgumentError, match="prepare"):
        talk.duplex.streaming_prefill(audio_waveform=talk.second(0))


def test_a_snapshot_is_gone_on_from(load: Load, scenario: dict[str, Any], golden: Path, voice: Any) -> None:
    # Sampled, so that random numbers are part of it.
    talk = Talk(load(), scenario, golden, tts_temperature=0.8, sliding_window_mode="basic",
                basic_window_high_tokens=160, basic_window_low_tokens=120)  # fmt: skip
    talk.begin(voice)
    talk.units([0, 1])
    assert talk.duplex.turn_is_open
    snapshot = talk.duplex.save_snapshot()
    length = talk.duplex.cache_length
    hot = {"decode_mode": "sampling", "temperature": 1.5}
    expected = talk.units(range(2, 7), **hot)
    text = talk.duplex.get_generated_text()
    for between in ("nothing", "text", "speech"):
        if between != "nothing":
            talk.begin(voice if between == "speech" else None)
            talk.units([0])
        talk.duplex.restore_snapshot(snapshot)
        assert talk.duplex.cache_length == length
        assert talk.duplex.turn_is_open
        assert talk.units(range(2, 7), **hot) == expected
        assert talk.duplex.get_generated_text() == text
        assert len(talk.duplex.get_unit_schemas()) == 7


def test_a_snapshot_before_the_answer(talk: Talk) -> None:
    talk.begin()
    talk.units([0])
    assert talk.duplex.streaming_prefill(audio_waveform=talk.second(1)).success
    snapshot = talk.duplex.save_snapshot()
    first = contents(talk.duplex.streaming_generate())
    assert first["text"]
    talk.duplex.restore_snapshot(snapshot)
    assert not talk.duplex.streaming_prefill(audio_waveform=talk.second(2)).success
    assert contents(talk.duplex.streaming_generate()) == first


def test_simplex_and_duplex_share_weights_only(talk: Talk, load: Load, voice: omni.Voice) -> None:
    model = load()

    def ask() -> list[Any]:
        question = [{"role": "user", "content": ["hello", talk.second(3)]}]
        model.streaming_prefill("s", question)
        options = {"generate_audio": False, "do_sample": False, "max_new_tokens": 10}
        return list(model.streaming_generate("s", **options))

    model.reset_session()
    expected_answer = ask()
    talk.begin(voice)
    expected = talk.units(range(3))
    model.reset_session()
    model.init_token2wav_cache(voice, n_timesteps=2)
    talk.begin(voice)
    other = Talk(model, talk.scenario, Path(__file__).parent / "golden")
    other.begin(voice)
    results = []
    for number in range(3):
        results.append(contents(talk.unit(number)))
        if number == 1:
            assert ask() == expected_answer
        assert contents(other.unit(number)) == expected[number]
    assert results == expected
    assert model.require_speaker().has_voice
    assert talk.duplex.as_simplex(reset_session=False) is model
    assert model._simplex is not None
    assert talk.duplex.as_simplex() is model
    assert model._simplex is None
    assert model.require_speaker().has_voice
    talk.duplex.as_simplex(reset_token2wav_cache=True)
    assert not model.require_speaker().has_voice


def test_a_full_context(load: Load, scenario: dict[str, Any], golden: Path) -> None:
    talk = Talk(load(), scenario, golden, n_ctx=160)
    talk.begin()
    talk.units([0, 1, 2])
    length = talk.duplex.cache_length
    snapshot = talk.duplex.save_snapshot()
    with pytest.raises(omni.ContextFullError, match="sliding_window_mode"):
        talk.units(range(3, 9))
    talk.duplex.restore_snapshot(snapshot)
    assert talk.duplex.cache_length == length
    # With a window there is no end.
    for mode in ("basic", "context"):
        talk = Talk(load(), scenario, golden, n_ctx=160, sliding_window_mode=mode)
        talk.begin()
        talk.units([number % 10 for number in range(14)])
        assert talk.duplex.cache_length <= 160


def test_a_unit_that_does_not_fit_is_not_heard(load: Load, scenario: dict[str, Any], golden: Path) -> None:
    talk = Talk(load(), scenario, golden)
    talk.begin()
    length = talk.duplex.cache_length + 11 + 2 + 11
    expected = talk.units([0, 1])
    logits = talk.duplex._logic._logits
    # Room for the second unit, but not for an answer of twenty.
    talk = Talk(load(), scenario, golden, n_ctx=length + 10)
    talk.begin()
    assert talk.units([0]) == expected[:1]
    for _ in range(2):
        with pytest.raises(omni.ContextFullError):
            talk.duplex.streaming_prefill(audio_waveform=talk.second(1))
    talk.duplex.streaming_generate(max_new_speak_tokens_per_chunk=8)
    assert talk.duplex.streaming_prefill(audio_waveform=talk.second(1)).success
    talk.duplex.streaming_generate(max_new_speak_tokens_per_chunk=1)
    full = Talk(load(), scenario, golden)
    full.begin()
    full.units([0])
    assert full.duplex.streaming_prefill(audio_waveform=full.second(1)).success
    np.testing.assert_array_equal(talk.duplex._logic._logits, full.duplex._logic._logits)
    assert not np.array_equal(logits, full.duplex._logic._logits)


def test_the_servers_units_are_short(load: Load, scenario: dict[str, Any], golden: Path) -> None:
    """Random text of 18 tokens is longer nearly always."""
    talk = Talk(load(variant="server"), scenario, golden)
    talk.begin()
    talk.units([0])
    options: dict[str, Any] = {"decode_mode": "sampling", "temperature": 5.0, "top_k": 0, "top_p": 0.0}
    texts = [talk.unit(number % 10, **options).text for number in range(1, 12)]
    assert all(len(text) < 28 for text in texts)
