"""omni-nano's pipeline at toy size: what is taught, tokenizer, scenes and labels, checkpoint and engine."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import omni
from omni import _ext

pytest.importorskip("scipy")

from nano import checkpoint, sounds, tokens, whisper
from nano.language import INTERRUPTIONS, UNKNOWN, all_pairs, background_sentence
from nano.scenes import SETTLE, Scene, SceneMaker, due_unit, split_answer
from nano.voices import RATE, SPLITS

SIZES = checkpoint.Sizes(hidden_size=64, num_hidden_layers=2, intermediate_size=96, head_dim=32)
UNITS = 40


def test_questions_have_one_answer_each() -> None:
    pairs = all_pairs()
    answers: dict[str, str] = {}
    for pair in pairs:
        assert answers.setdefault(pair.question, pair.answer) == pair.answer, pair.question
    assert answers["three plus four"] == answers["what is three plus four"] == "Three plus four is seven."
    assert answers["what comes after december"] == "After December comes January."
    assert answers["what is the capital of france"] == UNKNOWN
    assert sum(pair.held for pair in pairs) >= 40
    assert not {pair.question for pair in pairs if pair.held} & {p.question for p in pairs if not p.held}


def test_voices_of_tests_are_not_trained() -> None:
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not set(SPLITS[a]) & set(SPLITS[b])
    assert not any(voice.startswith("piper/") for voice in SPLITS["train"])


def test_answers_fit_into_units() -> None:
    for pair in all_pairs():
        pieces = split_answer(pair.answer)
        assert "".join(pieces) == pair.answer
        assert all(len(piece.split()) <= 4 for piece in pieces)


@pytest.mark.parametrize(("end", "unit"), [(3.0, 3), (3.69, 3), (3.75, 4), (3.999, 4)])
def test_due_unit(end: float, unit: int) -> None:
    assert due_unit(end) == unit


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    """Scenes of a voice that only hums: each text has a length of its own."""
    draws = np.random.default_rng(1)
    texts = [p.question for p in all_pairs()] + list(INTERRUPTIONS)
    import random

    talk = random.Random(1)
    texts += [background_sentence(talk) for _ in range(5)]
    clips = {t: draws.normal(0, 0.1, 4000 + 900 * len(t)).astype(np.float32) for t in texts}
    return SceneMaker({"espeak/hum": clips}, UNITS)


@pytest.fixture(scope="module")
def scenes(maker: SceneMaker) -> list[Scene]:
    return [maker.make(seed) for seed in range(40)]


def test_scenes_are_reproducible(maker: SceneMaker, scenes: list[Scene]) -> None:
    again = maker.make(3)
    np.testing.assert_array_equal(again.wave, scenes[3].wave)
    assert again.say == scenes[3].say
    assert not np.array_equal(scenes[3].wave, scenes[4].wave)


def test_scenes_answer_when_the_question_has_ended(scenes: list[Scene]) -> None:
    asked = [(scene, heard) for scene in scenes for heard in scene.heard if 0 <= heard.due < UNITS - 8]
    assert {"sum", "word", "long", "bell", "interruption", "unknown"} <= {heard.kind for _, heard in asked}
    for scene, heard in asked:
        assert np.isfinite(scene.wave).all()
        assert np.abs(scene.wave).max() <= 1
        if heard.kind == "interruption":
            assert scene.say[heard.due] == ""
            assert scene.ends[heard.due]
            assert heard.start < heard.due < heard.start + 2.6
        elif heard.question:
            assert scene.say[heard.due] == split_answer(heard.answer)[0]
            assert heard.end <= heard.due + 1 - SETTLE + 1e-9


def test_turns_end_and_nothing_is_said_unasked(scenes: list[Scene]) -> None:
    for scene in scenes:
        for unit, (say, following) in enumerate(pairwise(scene.say)):
            if say is not None and not scene.ends[unit]:
                assert following is not None, unit
        starts = [
            unit
            for unit, say in enumerate(scene.say)
            if say is not None and (unit == 0 or scene.say[unit - 1] is None or scene.ends[unit - 1])
        ]
        assert set(starts) <= {heard.due for heard in scene.heard}


def test_noise_and_music_are_sound() -> None:
    draws = np.random.default_rng(2)
    made = [
        sounds.bell(draws),
        sounds.music(draws, 2.0),
        sounds.noise(draws, 1.0),
        sounds.vary(sounds.bell(draws), draws),
    ]
    made += [effect(draws) for effect in sounds.EFFECTS.values()]
    for wave in made:
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert 0.1 < np.abs(wave).max() <= 0.51


def random_ear(layers: int) -> dict[str, NDArray[np.float32]]:
    """An encoder of the ear's sizes with few layers and random weights."""
    draws = np.random.default_rng(3)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (draws.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    width, ffn = whisper.WIDTH, whisper.FFN
    out = {"apm.conv1.weight": normal(width, whisper.MELS, 3), "apm.conv2.weight": normal(width, width, 3)}
    out |= {f"apm.conv{i}.bias": np.zeros(width, np.float32) for i in (1, 2)}
    out["apm.embed_positions.weight"] = normal(whisper.POSITIONS, width)
    norms = ["apm.layer_norm"]
    for i in range(layers):
        at = f"apm.layers.{i}"
        norms += [f"{at}.self_attn_layer_norm", f"{at}.final_layer_norm"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out[f"{at}.self_attn.{name}.weight"] = normal(width, width)
            if name != "k_proj":
                out[f"{at}.self_attn.{name}.bias"] = np.zeros(width, np.float32)
        out |= {f"{at}.fc1.weight": normal(ffn, width), f"{at}.fc1.bias": np.zeros(ffn, np.float32)}
        out |= {f"{at}.fc2.weight": normal(width, ffn), f"{at}.fc2.bias": np.zeros(width, np.float32)}
    for name in norms:
        out |= {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    return out


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    ear = random_ear(whisper.LAYERS)
    checkpoint.write_checkpoint(folder / "checkpoint", checkpoint.random_tensors(SIZES, ear, 1), SIZES)
    checkpoint.convert_checkpoint(folder / "checkpoint", folder / "model", "F32", "F32")
    return folder / "model"


def test_tokenizer_has_all_tokens_and_whole_words(model_dir: Path) -> None:
    tokenizer = _ext.Tokenizer(next(model_dir.glob("*.gguf")))
    published = json.loads((Path(__file__).parent / "golden/tiny/tokenizer_config.json").read_text())
    texts = {entry["content"] for entry in published["added_tokens_decoder"].values()}
    assert texts == {token.removeprefix("-") for token in tokens.SPECIAL}
    for text in texts:
        assert tokenizer.encode(text) == [tokenizer.required_id(text)]
    for pair in all_pairs():
        for text in (pair.answer, *tokens.typed_forms(pair.question)):
            assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("Three plus four is seven.")) == 6


def test_untrained_model_chats_and_keeps_its_window(model_dir: Path) -> None:
    model = omni.MiniCPMO.from_pretrained(model_dir, n_ctx=1024, n_threads=1)
    answer = model.chat(
        msgs=[{"role": "user", "content": ["hello"]}], max_new_tokens=5, num_beams=1, do_sample=False
    )
    assert isinstance(answer, str)
    options = _ext.DuplexOptions.of_model(str(model.files.llm))
    window = {name: getattr(options, name) for name in checkpoint.WINDOW}
    assert window == checkpoint.WINDOW
    high, lengths = checkpoint.WINDOW["basic_window_high_tokens"], []

    def note(event: omni.Event) -> None:
        if isinstance(event, omni.UnitEvent):
            lengths.append(event.cache_length)

    with omni.DuplexSession(
        model, generate_audio=False, real_time=False, force_listen=60, on_event=note
    ) as session:
        session.push_audio(np.zeros(60 * RATE, np.float32))
        session.end_input()
        session.wait()
    assert len(lengths) == 60
    assert isinstance(high, int)
    assert high - 13 < max(lengths) <= high  # a listening unit has 13 rows


def test_training_code_and_engine_agree(model_dir: Path) -> None:
    """The same rows through both: logits differ by float32 rounding alone."""
    torch = pytest.importorskip("torch")
    from nano.model import Nano

    from omni.convert.checkpoint import Checkpoint

    source = Checkpoint(model_dir.parent / "checkpoint")
    network = Nano(SIZES).eval()
    network.load_state_dict({name: torch.from_numpy(source.read(name)) for name in network.state_dict()})
    model = omni.MiniCPMO.from_pretrained(model_dir, n_ctx=256, n_threads=1, kv_type="f32")
    draws = np.random.default_rng(5)
    wave = draws.normal(0, 0.1, 2 * RATE).astype(np.float32)
    encoder = model.require_audio()._encoder
    features = encoder._inspect(wave, 1.0)["encoded"][:100]
    embeds = np.asarray(encoder.encode([wave], 1.0))
    heard = network.audio_projection_layer(torch.from_numpy(features)).detach().numpy()
    assert np.abs(heard - embeds).max() <= 1e-4 * np.abs(embeds).max()
    ids = draws.integers(0, SIZES.vocab_size, 60)
    with torch.no_grad():
        nothing = torch.zeros(0, whisper.WIDTH)
        batch = torch.from_numpy(ids)[None]
        logits = network(batch, nothing, torch.zeros(1, 60, dtype=torch.bool), torch.arange(60))[0].numpy()
    _, found = model.llm.forward(ids, model.llm.new_cache(), "all")
    np.testing.assert_allclose(found, logits, atol=2e-4 * np.abs(logits).max())


def test_sizes_are_those_of_the_published_config() -> None:
    published = json.loads((Path(__file__).parent / "golden/tiny/config.json").read_text())
    assert {field.name for field in dataclasses.fields(checkpoint.Sizes)} <= published.keys()
