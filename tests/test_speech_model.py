"""The speech model against the reference, against itself in pieces, and with unusable input."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_edit import edit_gguf
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni.model_files import PROJECTOR_PATH
from omni.speech_model import SpeechAttention, SpeechMode

# As in test_language_model.py: both sides compute in float32, the stored arrays keep 16 bits of mantissa.
TOLERANCE = 1e-4
# With these the arrays differ by that rounding alone, which is 4e-6 relative.
ROUNDED = 1e-5

Arrays = dict[str, NDArray[np.float32]]
WIDTH, CODES = 64, 6562


@pytest.fixture(scope="module")
def files(tiny_model_dir: Path) -> tuple[Path, Path]:
    return tiny_model_dir / "tts" / "MiniCPM-o-4_5-tts-F32.gguf", tiny_model_dir / PROJECTOR_PATH


@pytest.fixture(scope="module", params=[d.name for d in omni.list_devices()])
def model(request: pytest.FixtureRequest, files: tuple[Path, Path]) -> omni.SpeechModel:
    return omni.SpeechModel(*files, n_ctx=3072, kv_type="f32", device=request.param, n_threads=1)


@pytest.fixture(scope="module")
def duplex(golden: Path) -> Arrays:
    return dict(np.load(golden / "tts.npz"))


@pytest.fixture(scope="module")
def streaming(golden: Path) -> Arrays:
    return dict(np.load(golden / "tts_streaming.npz"))


def text(n: int, seed: int = 1) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Text tokens with hidden states."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, 1200, n, dtype=np.int32)
    return ids, random.standard_normal((n, 256), dtype=np.float32)


# ---- against the reference ----


def test_special_ids(model: omni.SpeechModel) -> None:
    info = model.info
    assert (info.n_codes, info.end_of_speech) == (CODES, CODES - 1)
    assert (info.audio_bos, info.text_eos) == (1241, 1246)  # config.json of the tiny checkpoint
    assert (info.width, info.llm_width, info.n_layers) == (WIDTH, 256, 2)


@pytest.mark.parametrize("unit", range(3))
def test_conditions(model: omni.SpeechModel, duplex: Arrays, unit: int) -> None:
    ids, hidden = duplex[f"c{unit}_llm_ids"], duplex[f"c{unit}_llm_hidden"]
    bare = model.condition(ids)
    assert relative_rms(bare, duplex[f"c{unit}_emb_text"]) < ROUNDED
    full = model.condition(ids, hidden)
    assert relative_rms(full - bare, duplex[f"c{unit}_projected_normalized"]) < ROUNDED
    np.testing.assert_allclose(np.linalg.norm(full - bare, axis=1), 1, atol=1e-5)
    block = np.concatenate([full, model.condition([model.info.audio_bos])])
    assert relative_rms(block, duplex[f"c{unit}_condition"]) < ROUNDED


def test_hidden_states_and_logits(model: omni.SpeechModel, duplex: Arrays) -> None:
    rows, marks = [], []
    for unit in range(3):
        rows += [duplex[f"c{unit}_condition"], model.embed(duplex[f"c{unit}_tokens"])]
        # The state behind audio_bos predicts the first token.
        marks.append(sum(map(len, rows[:-1])) - 1)
    hidden, logits = model.evaluate(np.concatenate(rows))
    for unit, mark in enumerate(marks):
        expected = duplex[f"c{unit}_hidden"]
        assert relative_rms(hidden[mark : mark + len(expected)], expected) < TOLERANCE
        assert relative_rms(logits[mark : mark + 3], duplex[f"c{unit}_logits"]) < TOLERANCE
    _, logits = model.evaluate(duplex["full_inputs_embeds"])
    assert relative_rms(logits[-1], duplex["full_logits_prefill_last"]) < TOLERANCE


def test_duplex_tokens(model: omni.SpeechModel, duplex: Arrays) -> None:
    stream = model.stream(greedy=True)
    for _ in range(2):  # a turn leaves nothing behind
        for unit in range(3):
            ids, hidden = duplex[f"c{unit}_llm_ids"], duplex[f"c{unit}_llm_hidden"]
            tokens = stream.push(ids, hidden, last=unit == 2)
            assert tokens == duplex[f"c{unit}_tokens"].tolist()
            if unit < 2:
                assert stream.position == duplex[f"c{unit}_next_text_start_pos"]
        assert (stream.position, stream.n_cached) == (0, 0)


def test_chat_tokens(model: omni.SpeechModel, duplex: Arrays) -> None:
    stream = model.stream("chat", greedy=True, min_tokens=10, max_tokens=59)
    tokens = stream.push(duplex["full_llm_ids"], duplex["full_llm_hidden"], last=True)
    assert tokens == duplex["full_tokens"].tolist()


@pytest.mark.parametrize("attention", ["full_attention", "sliding_window", "sliding_recompute", "reindex"])
def test_simplex_tokens(model: omni.SpeechModel, streaming: Arrays, attention: SpeechAttention) -> None:
    blocks = json.loads(str(streaming["meta"]))[attention]
    stream = model.stream("simplex", greedy=True, max_tokens=40, attention=attention, window=40)
    for _ in range(2):
        given: list[int] = []
        for i, expected in enumerate(blocks):
            last = i == len(blocks) - 1
            tokens = stream.push_conditions(streaming[f"condition_{i}"], last=last)
            emitted = [token for group, _ in expected["yields"] for token in group]
            # The caller of the reference takes what waits at the end itself.
            assert tokens[: len(emitted)] == emitted
            assert len(tokens) == len(emitted) + (expected["buffer"] if last else 0)
            given += tokens
            assert expected["generated"] == len(given) + (0 if last else expected["buffer"])
            if not last:
                assert (stream.position, stream.n_cached) == (expected["text_start_pos"], expected["kv"])
        assert given == streaming[f"{attention}_tokens"].tolist()
        assert (stream.position, stream.n_cached) == (0, 0)


# ---- against itself ----


@pytest.mark.parametrize("mode", ["simplex", "chat"])
@pytest.mark.parametrize("greedy", [False, True])
def test_any_cut_of_the_text(model: omni.SpeechModel, mode: SpeechMode, greedy: bool) -> None:
    ids, hidden = text(37)

    def spoken(cuts: list[int]) -> list[int]:
        stream = model.stream(mode, greedy=greedy, seed=5, max_tokens=60)
        out: list[int] = []
        for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
            out += stream.push(ids[begin:end], hidden[begin:end], last=end == len(ids))
        return out

    expected = spoken([])
    assert len(expected) > 50
    random = np.random.default_rng(2)
    for count in (1, 3, 9):
        # The last cut leaves a token: without `last`, a push says that more text follows.
        assert spoken(sorted(random.integers(0, 36, count).tolist())) == expected
    assert spoken(list(range(1, 37))) == expected


def test_groups_of_a_second(model: omni.SpeechModel) -> None:
    ids, hidden = text(10)
    whole = model.stream("simplex", seed=1, min_tokens=60).push(ids, hidden, last=True)
    groups = list(model.stream("simplex", seed=1, min_tokens=60).chunks(ids, hidden, last=True))
    assert [token for group in groups for token in group] == whole
    assert all(len(group) == 25 for group in groups[:-1]) and 1 <= len(groups[-1]) <= 25
    # Taking one group and the rest later is the same.
    stream = model.stream("simplex", seed=1, min_tokens=60)
    assert next(stream.chunks(ids, hidden, last=True)) == groups[0]
    with pytest.raises(omni.InvalidArgumentError, match="has ended"):
        stream.push(ids, hidden)
    assert [token for group in stream.rest() for token in group] == whole[25:]
    assert stream.push(ids, hidden, last=True)  # the next turn


def test_seeds(model: omni.SpeechModel) -> None:
    ids, hidden = text(12)
    stream = model.stream("chat", seed=3)
    first = stream.push(ids, hidden, last=True)
    second = stream.push(ids, hidden, last=True)
    assert second != first  # random numbers go on from turn to turn
    stream.reset()
    assert stream.push(ids, hidden, last=True) == first
    assert model.stream("chat", seed=4).push(ids, hidden, last=True) != first
    assert all(0 <= token < CODES - 1 for token in first + second)


def test_duplex_counts(model: omni.SpeechModel) -> None:
    stream = model.stream(seed=2)
    ids, hidden = text(3)
    before = 0
    for unit in range(8):
        n = unit % 4
        tokens = stream.push(ids[:n], hidden[:n])
        assert unit == 0 or len(tokens) == 25
        before += n + 1 + len(tokens)
        assert stream.position == before
    assert len(stream.push(ids, hidden, last=True)) <= 25
    assert stream.position == 0


def test_end_of_a_turn_without_text(model: omni.SpeechModel) -> None:
    for mode in ("simplex", "chat"):
        assert model.stream(mode).push([], [], last=True) == []
    stream = model.stream("simplex", seed=9)
    ids, hidden = text(10)
    given = stream.push(ids, hidden)
    # Nothing but the end of the text is left for the last block.
    given += stream.push([], [], last=True)
    assert given and stream.position == 0


def test_flush_and_reset(model: omni.SpeechModel) -> None:
    ids, hidden = text(10)
    stream = model.stream("simplex", greedy=True, max_tokens=30)
    full = stream.push(ids, hidden, last=False)
    waiting = stream.flush()
    assert (len(full), len(waiting)) == (25, 5) and stream.position == 0
    assert stream.push(ids, hidden) == full
    stream.reset()
    assert stream.flush() == [] and stream.position == 0


def test_minimum_and_maximum(model: omni.SpeechModel) -> None:
    ids, hidden = text(5)
    for seed in range(3):
        assert len(model.stream("chat", seed=seed).push(ids, hidden, last=True)) >= 50
    assert len(model.stream("chat", min_tokens=70, max_tokens=70).push(ids, hidden, last=True)) == 70
    assert len(model.stream("duplex", max_tokens=10).push(ids, hidden)) <= 10


def test_full_window_goes_on_from_two_blocks(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = omni.SpeechModel(*files, n_ctx=256, kv_type="f32", n_threads=1)
    stream = model.stream(greedy=True, repetition_penalty=1.0)
    ids, hidden = text(9)
    block = np.concatenate([model.condition(ids, hidden), model.condition([model.info.audio_bos])])
    units: list[list[int]] = []
    with caplog.at_level(logging.WARNING, logger="omni"):
        while not caplog.records:
            before = sum(len(block) + len(unit) for unit in units)
            units.append(stream.push(ids, hidden))
    assert "is full" in caplog.text and stream.position <= 256
    # From the first row that didn't fit, the model has seen the block before and this one only.
    restarted = 256 - before - len(block) + 1
    assert len(units) > 2 and 1 < restarted < 25
    rows = [block, model.embed(units[-2]), block, model.embed(units[-1])]
    _, logits = model.evaluate(np.concatenate(rows))
    start = 2 * len(block) + len(units[-2]) - 1
    expected = logits[start + restarted : start + 25, :-1].argmax(axis=1)
    assert units[-1][restarted:] == expected.tolist()
    assert len(stream.push(ids, hidden)) == 25


def test_long_answers_are_refused(files: tuple[Path, Path]) -> None:
    model = omni.SpeechModel(*files, n_ctx=512, n_threads=1)
    stream = model.stream("chat", max_tokens=200)
    ids, hidden = text(310)
    with pytest.raises(omni.ContextFullError, match="in parts"):
        stream.push(np.append(ids, 1), np.concatenate([hidden, hidden[:1]]), last=True)
    assert len(stream.push(ids, hidden, last=True)) >= 50


def test_threads_share_the_model(model: omni.SpeechModel) -> None:
    ids, hidden = text(20)
    expected = [model.stream("simplex", seed=s, max_tokens=50).push(ids, hidden, last=True) for s in range(3)]
    found: dict[int, list[int]] = {}

    def speak(seed: int) -> None:
        found[seed] = model.stream("simplex", seed=seed, max_tokens=50).push(ids, hidden, last=True)

    threads = [threading.Thread(target=speak, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(3)] == expected


# ---- files ----


def test_projector_of_the_speech_file(
    model: omni.SpeechModel, files: tuple[Path, Path], duplex: Arrays
) -> None:
    alone = omni.SpeechModel(files[0], n_ctx=64, n_threads=1)
    ids, hidden = duplex["c0_llm_ids"], duplex["c0_llm_hidden"]
    assert relative_rms(alone.condition(ids, hidden), model.condition(ids, hidden)) < 1e-6


def test_either_orientation_of_the_head(files: tuple[Path, Path], tmp_path: Path, duplex: Arrays) -> None:
    stored = next(t for t in gguf.GGUFReader(files[0]).tensors if t.name == "head_code.0.weight")
    assert tuple(stored.shape) == (CODES, WIDTH)
    turned = edit_gguf(
        files[0], tmp_path / "turned.gguf", tensors={stored.name: np.ascontiguousarray(stored.data.T)}
    )
    _, expected = omni.SpeechModel(files[0], n_ctx=64).evaluate(duplex["c0_condition"])
    _, found = omni.SpeechModel(turned, n_ctx=64).evaluate(duplex["c0_condition"])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("weight_format", "limit"), [("bf16", 1e-2), ("q8_0", 2 * 0.017)])
def test_other_weight_formats(
    files: tuple[Path, Path], duplex: Arrays, weight_format: str, limit: float
) -> None:
    # tolerance.json: the reference's logits move by 0.017 when its weights are rounded to Q8_0; BF16 numbers
    # stay, but products round their activations to BF16, 2^-9 each.
    model = omni.SpeechModel(*files, n_ctx=64, weight_format=weight_format)  # type: ignore[arg-type]
    _, logits = model.evaluate(duplex["c0_condition"])
    error = relative_rms(logits[-1], duplex["c0_logits"][0])
    assert 0 < error < limit


def bad_file(tmp_path: Path, source: Path, **changes: object) -> Path:
    return edit_gguf(source, tmp_path / "bad.gguf", **changes)  # type: ignore[arg-type]


def test_files_of_other_models(files: tuple[Path, Path], tiny_model_dir: Path, tmp_path: Path) -> None:
    speech, projector = files
    (llm,) = tiny_model_dir.glob("*.gguf")
    with pytest.raises(omni.UnsupportedError, match=r"qwen3.*not a speech model"):
        omni.SpeechModel(llm, projector)
    with pytest.raises(omni.UnsupportedError, match=r"llama.*not a language model"):
        omni.LanguageModel(speech)
    with pytest.raises(omni.OmniError):
        omni.SpeechModel(projector, speech)
    with pytest.raises(omni.ModelFileError):
        omni.SpeechModel(tmp_path / "none.gguf")
    other = edit_gguf(
        projector, tmp_path / "other.gguf", tensors={"linear1.bias": np.ones(WIDTH, np.float32)}
    )
    with pytest.raises(omni.FormatError, match="same model"):
        omni.SpeechModel(speech, other)
    narrow = {
        "linear1.weight": np.zeros((32, 256), np.float32),
        "linear1.bias": np.zeros(32, np.float32),
    }
    with pytest.raises(omni.FormatError, match="projector"):
        omni.SpeechModel(speech, edit_gguf(projector, tmp_path / "narrow.gguf", tensors=narrow))


def test_damaged_speech_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    speech = files[0]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(speech.read_bytes()[:-1000])
    with pytest.raises(omni.FormatError):
        omni.SpeechModel(cut)
    for name in ("emb_text.weight", "emb_code.0.weight", "head_code.0.weight", "blk.1.attn_q.weight"):
        missing = bad_file(tmp_path, speech, rename=lambda n, drop=name: None if n == drop else n)
        with pytest.raises(omni.FormatError, match=name.replace(".", r"\.")):
            omni.SpeechModel(missing)
    odd_head = {"head_code.0.weight": np.zeros((WIDTH, CODES - 1), np.float32)}
    with pytest.raises(omni.FormatError, match="head_code"):
        omni.SpeechModel(bad_file(tmp_path, speech, tensors=odd_head))
    # Without the keys, the published ids hold, which the tiny table doesn't reach.
    with pytest.raises(omni.FormatError, match="151687"):
        omni.SpeechModel(bad_file(tmp_path, speech, keys={"omni.audio_bos_token_id": None}))


# ---- unusable input ----


def test_unusable_text(model: omni.SpeechModel) -> None:
    ids, hidden = text(4)
    stream = model.stream("simplex", seed=1)
    bad = hidden.copy()
    bad[2, 7] = np.nan
    for states, message in (
        (bad, "NaN"),
        (hidden * np.inf, "NaN"),
        (np.full_like(hidden, 3e38), "too large"),
        (hidden[:3], r"\[4, 256\]"),
        (hidden[:, :255], r"\[4, 256\]"),
        (hidden.reshape(-1), r"\[4, 256\]"),
    ):
        with pytest.raises(omni.InvalidArgumentError, match=message):
            stream.push(ids, states)
    for unknown in (-1, 1318, 2**31 - 1, 2**40):
        with pytest.raises(omni.InvalidArgumentError, match=str(unknown)):
            stream.push([unknown], hidden[:1])
    for wrong in ([0.5], [[1]], ["a"], [True]):
        with pytest.raises(omni.InvalidArgumentError, match="whole numbers"):
            stream.push(wrong, hidden[:1])
    with pytest.raises(omni.InvalidArgumentError, match="NaN"):
        stream.push_conditions(np.full((1, WIDTH), np.nan))
    with pytest.raises(omni.InvalidArgumentError, match=r"\[n, 64\]"):
        stream.push_conditions(np.zeros((1, WIDTH + 1)))
    # Nothing of it has stayed.
    fresh = model.stream("simplex", seed=1)
    assert stream.push(ids, hidden, last=True) == fresh.push(ids, hidden, last=True)


def test_unusable_options(model: omni.SpeechModel, files: tuple[Path, Path]) -> None:
    for options in (
        {"mode": "song"},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"repetition_penalty": 0.0},
        {"mode": "simplex", "top_p": 1.5},
        {"mode": "simplex", "top_k": -1},
        {"min_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 10**9},
        {"attention": "reindex"},
        {"mode": "simplex", "attention": "half"},
        {"mode": "simplex", "attention": "sliding_window", "window": 0},
    ):
        with pytest.raises(omni.InvalidArgumentError):
            model.stream(**options)  # type: ignore[arg-type]
    for settings in ({"n_ctx": 0}, {"n_ctx": 2**30}, {"kv_type": "f8"}, {"weight_format": "q1"}):
        with pytest.raises(omni.InvalidArgumentError):
            omni.SpeechModel(*files, **settings)  # type: ignore[arg-type]


def test_random_weights() -> None:
    model = omni.SpeechModel.synthetic("F16", layers=2, n_ctx=256)
    assert (model.info.width, model.info.llm_width, model.info.n_codes) == (768, 4096, 6562)
    ids = np.arange(5)
    hidden = np.random.default_rng(0).standard_normal((5, 4096), dtype=np.float32)
    stream = model.stream()
    stream.push(ids, hidden)
    assert len(stream.push(ids, hidden)) == 25
