"""The samplers and beam search against the reference's numbers and plain re-implementations of the rules."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tiny_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_vocabulary import GOLDEN

import omni
from omni import _ext

DATA = np.load(GOLDEN / "sampling.npz")
FloatArray = NDArray[np.float32]


@pytest.fixture(scope="module")
def tiny() -> omni.Tokenizer:
    return tiny_vocabulary.tokenizer(eos=1199)


@pytest.mark.parametrize("case", range(4))
def test_filter(case: int) -> None:
    top_k, top_p = DATA[f"filter{case}_k_p"]
    out = _ext.filter_scores(DATA[f"filter{case}_in"], top_k=int(top_k), top_p=float(top_p))
    np.testing.assert_array_equal(out, DATA[f"filter{case}_out"])


def test_speech_processors() -> None:
    # The stored arrays keep 16 mantissa bits; the penalty rounds once more.
    scores = _ext.penalize_by_count(DATA["tts_in"], DATA["tts_hist"][-16:].tolist(), 1.05)
    np.testing.assert_allclose(scores, DATA["tts_after_penalty"], rtol=1e-5)
    options = {"min_keep": 3, "keep_at_p": False}
    scores = DATA["tts_after_penalty"]
    scores = _ext.filter_scores(scores, top_p=0.85, **options)
    np.testing.assert_array_equal(scores, DATA["tts_after_top_p"])
    scores = _ext.filter_scores(scores, top_k=25, **options)
    np.testing.assert_array_equal(scores, DATA["tts_after_top_k"])
    both = _ext.filter_scores(DATA["tts_after_penalty"], top_p=0.85, top_k=25, top_p_first=True, **options)
    np.testing.assert_array_equal(both, DATA["tts_after_top_k"])


def test_duplex_decoding(tiny: omni.Tokenizer) -> None:
    assert _ext.duplex_forbidden_ids(tiny) == sorted(DATA["duplex_forbidden"].tolist())
    sampler = omni.DuplexSampler(tiny, omni.DuplexSamplerOptions(greedy=True))
    assert [sampler.sample(row) for row in DATA["duplex_decode_in"]] == DATA["duplex_decode_ids"].tolist()
    chunk_eos = tiny.required_id("<|chunk_eos|>")
    assert sampler.history == [i for i in DATA["duplex_decode_ids"].tolist() if i != chunk_eos]


def test_duplex_listen_options(tiny: omni.Tokenizer) -> None:
    sampler = omni.DuplexSampler(tiny, omni.DuplexSamplerOptions(greedy=True))
    for row in DATA["duplex_decode_in"]:
        sampler.sample(row)
    ids = []
    for row, options in zip(
        DATA["duplex_listen_in"], json.loads(str(DATA["duplex_listen_options"])), strict=True
    ):
        if "text_repetition_penalty" in options:
            options["repetition_penalty"] = options.pop("text_repetition_penalty")
        sampler.set_options(omni.DuplexSamplerOptions(greedy=True, listen_options_on_eos=True, **options))
        ids.append(sampler.sample(row))
    assert ids == DATA["duplex_listen_ids"].tolist()


def test_the_listen_options_act_on_listen_unless_asked(tiny: omni.Tokenizer) -> None:
    logits = np.full(1302, -1.0, np.float32)
    listen, im_end = tiny.required_id("<|listen|>"), tiny.required_id("<|im_end|>")
    logits[[listen, im_end, 65]] = 3, 3, 5
    for on_eos, expected in ((False, listen), (True, im_end)):
        options = omni.DuplexSamplerOptions(greedy=True, listen_top_k=2, listen_options_on_eos=on_eos)
        sampler = omni.DuplexSampler(tiny, options)
        assert sampler.sample(logits) == expected
        assert sampler.history == []
        sampler.set_options(
            omni.DuplexSamplerOptions(greedy=True, listen_prob_scale=2, listen_options_on_eos=on_eos)
        )
        assert sampler.sample(logits) == expected


def test_a_unit_ends_with_the_probability_of_the_model(tiny: omni.Tokenizer) -> None:
    logits = np.full(1302, -100.0, np.float32)
    chunk_eos = tiny.required_id("<|chunk_eos|>")
    logits[[chunk_eos, 64, 65]] = np.log([0.3, 0.5, 0.2])
    sampler = omni.DuplexSampler(
        tiny, omni.DuplexSamplerOptions(temperature=0.01, repetition_penalty=1, seed=3)
    )
    ends = sum(sampler.sample(logits) == chunk_eos for _ in range(4000))
    assert abs(ends / 4000 - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5  # four standard deviations
    assert set(sampler.history) == {64}


def test_sign_blind_penalty_raises_repeated_negative_logits(tiny: omni.Tokenizer) -> None:
    logits = np.full(1302, -20.0, np.float32)
    logits[[64, 65]] = -10, -9.9
    sampler = omni.DuplexSampler(tiny, omni.DuplexSamplerOptions(greedy=True, repetition_penalty=1.5))
    assert [sampler.sample(logits) for _ in range(2)] == [65, 65]
    logits[65] = -12  # -12 / 1.5 = -8 beats -10
    assert sampler.sample(logits) == 65


def test_streaming_rules(tiny: omni.Tokenizer) -> None:
    forbidden = _ext.streaming_forbidden_ids(tiny)
    symbols = {tiny.required_id(c) for c in ":#@*()[]&/$"}
    assert set(forbidden) == symbols | {1079} | set(tiny.bad_token_ids)
    stop = 1199
    logits = np.full(1302, -5.0, np.float32)
    logits[[1079, stop, 64, 65]] = 9, 4, 3.9, 3.5
    s = omni.StreamingSampler(1302, [stop], forbidden, greedy=True, repetition_penalty=1.2, penalty_window=1)
    assert s.sample(logits) == stop  # not <unk>
    s = omni.StreamingSampler(
        1302, [stop], forbidden, greedy=True, repetition_penalty=1.2, penalty_window=1, length_penalty=2
    )
    assert [s.sample(logits) for _ in range(3)] == [64, 65, 64]  # 3.25 after the penalty, and 2.92
    s.begin_chunk()
    assert s.sample(logits) == 65  # of the earlier chunks only the last id counts


def test_chat_penalty_and_minimum(tiny: omni.Tokenizer) -> None:
    logits = np.array([1.0, 4.0, 3.9, -1.0], np.float32)
    s = omni.ChatSampler(4, [1], greedy=True, min_new_tokens=1)
    assert [s.sample(logits) for _ in range(2)] == [2, 1]
    assert s.is_stop(1) and not s.is_stop(2)
    s = omni.ChatSampler(4, [0], greedy=True, repetition_penalty=1.1)
    assert [s.sample(logits) for _ in range(2)] == [1, 2]
    s.reset()
    assert s.sample(logits) == 1


def test_speech_rules() -> None:
    logits = np.array([4.0, 1, 1, 5.0], np.float32)
    s = omni.SpeechSampler(4, 3, greedy=True)
    assert s.sample(logits, plain=True) == 3
    assert s.history == []
    assert s.sample(logits, plain=True, ban_eos=True) == 0
    drawn = omni.SpeechSampler(4, 3, seed=1)
    assert 3 not in {drawn.sample(logits, ban_eos=True) for _ in range(200)}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(0, 40), top_p=st.floats(0, 1), n=st.integers(1, 300))
def test_filter_equals_its_definition(seed: int, top_k: int, top_p: float, n: int) -> None:
    # Whole numbers make ties; the masses of a few candidates are exact enough not to meet p by accident.
    scores = np.random.default_rng(seed).integers(-6, 7, n).astype(np.float32)
    kept = np.full(n, True)
    if top_k:
        kept = scores >= np.sort(scores)[::-1][min(top_k, n) - 1]
    if 0 < top_p < 1:
        order = np.lexsort((np.arange(n), -scores))
        order = order[kept[order]]
        weights = np.exp(scores[order].astype(float) - scores.max())
        before = (np.cumsum(weights) - weights) / weights.sum()
        if np.any(np.abs(before - top_p) < 1e-9):
            return
        kept = np.zeros(n, bool)
        kept[order[(before <= top_p) | (np.arange(len(order)) == 0)]] = True
    out = _ext.filter_scores(scores, top_k=top_k, top_p=top_p)
    np.testing.assert_array_equal(np.isfinite(out), kept)


def test_draws_follow_the_distribution_and_the_seed() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    def make(seed: int) -> omni.ChatSampler:
        return omni.ChatSampler(4, [], temperature=1, top_k=0, top_p=1, repetition_penalty=1, seed=seed)

    sampler = make(7)
    ids = [sampler.sample(logits) for _ in range(8000)]
    counts = np.bincount(ids, minlength=4) / 8000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=4 * (0.25 / 8000) ** 0.5)
    again = make(7)
    assert [again.sample(logits) for _ in range(50)] == ids[:50]
    other = make(8)
    assert [other.sample(logits) for _ in range(50)] != ids[:50]
    snapshot = again.copy()
    assert [again.sample(logits) for _ in range(50)] == [snapshot.sample(logits) for _ in range(50)]


def test_random_is_xoshiro256plusplus() -> None:
    # Seeding and steps written out again.
    mask = 2**64 - 1
    seed, state = 42, []
    for _ in range(4):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        state.append(z ^ (z >> 31))

    def rotl(x: int, k: int) -> int:
        return ((x << k) | (x >> (64 - k))) & mask

    random = omni.Random(42)
    for _ in range(20):
        expected = (rotl((state[0] + state[3]) & mask, 23) + state[0]) & mask
        t = (state[1] << 17) & mask
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = rotl(state[3], 45)
        assert random.bits() == expected
    values = [random.normal() for _ in range(20000)]
    assert abs(np.mean(values)) < 4 / 20000**0.5
    assert abs(np.std(values) - 1) < 4 / 40000**0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("greedy", [True, False])
def test_damaged_logits_are_refused(bad: float, greedy: bool) -> None:
    sampler = omni.ChatSampler(4, [], greedy=greedy)
    with pytest.raises(omni.InvalidArgumentError, match="NaN or infinity"):
        sampler.sample(np.array([0, bad, 1, 2], np.float32))
    with pytest.raises(omni.InvalidArgumentError, match="no token is allowed"):
        sampler.sample(np.full(4, -np.inf, np.float32))
    with pytest.raises(omni.InvalidArgumentError, match=r"expected 4 logits.*got 3"):
        sampler.sample(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"temperature": np.nan}, {"top_k": -1}, {"top_p": 1.5}, {"repetition_penalty": 0}],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(omni.InvalidArgumentError, match=next(iter(options))):
        omni.ChatSampler(4, [], **options)
    with pytest.raises(omni.InvalidArgumentError, match="outside"):
        omni.ChatSampler(4, [4])


# ---- beam search ----


def _toy_logits(ids: list[int], n_vocab: int, seed: int) -> FloatArray:
    """A language model whose logits are a function of the text so far."""
    key = np.array([seed, *ids], dtype=np.uint64)
    return np.random.default_rng(key).normal(0, 2, n_vocab).astype(np.float32)


def _search(n_vocab: int, model: int, stop: list[int], **options: Any) -> tuple[list[int], float]:
    beams: list[list[int]] = [[] for _ in range(options.get("n_beams", 3))]

    def step(parents: list[int], tokens: list[int]) -> FloatArray:
        nonlocal beams
        beams = [[*beams[p], t] for p, t in zip(parents, tokens, strict=True)]
        return np.stack([_toy_logits(b, n_vocab, model) for b in beams])

    return omni.beam_search(step, _toy_logits([], n_vocab, model), stop, **options)


def _greedy_beams(
    n_vocab: int, seed: int, stop: list[int], penalty: float, limit: int, power: float
) -> tuple[list[int], float]:
    """The rules of the default decoding with do_sample=False, written down once more."""
    n, count = 3, (1 + len(stop)) * 3
    run: list[tuple[float, list[int]]] = [(0.0, []), (-1e9, []), (-1e9, [])]
    done: list[tuple[float, list[int]]] = []
    for t in range(1, limit + 1):
        pool = []
        for score, ids in run:
            z = _toy_logits(ids, n_vocab, seed).astype(float)
            lp = z - z.max() - np.log(np.exp(z - z.max()).sum())
            lp[list(set(ids))] *= penalty
            pool += [(score + lp[i], [*ids, i]) for i in range(n_vocab)]
        pool.sort(key=lambda c: -c[0])
        pool = pool[:count]
        stops = [c[1][-1] in stop or t == limit for c in pool]
        going = [(s - 1e9 * end, ids) for (s, ids), end in zip(pool, stops, strict=True)]
        run = sorted(going, key=lambda c: -c[0])[:n]
        done += [(s / t**power, ids) for (s, ids), end in zip(pool[:n], stops[:n], strict=True) if end]
        done = sorted(done, key=lambda c: -c[0])[:n]
        worst = done[-1][0] if len(done) == n else -1e9
        if all(stops) or not run[0][0] / t**power > worst:
            break
    return done[0][1], done[0][0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_vocab=st.integers(10, 40),
    penalty=st.sampled_from([1.0, 1.2, 1.02]),
    limit=st.integers(1, 14),
    power=st.sampled_from([1.0, 0.5, 0.0]),
)
def test_greedy_beam_search(seed: int, n_vocab: int, penalty: float, limit: int, power: float) -> None:
    stop = [2, 5]
    ids, score = _search(
        n_vocab, seed, stop, max_new_tokens=limit, repetition_penalty=penalty, length_penalty=power
    )
    expected_ids, expected_score = _greedy_beams(n_vocab, seed, stop, penalty, limit, power)
    assert ids == expected_ids
    assert score == pytest.approx(expected_score, rel=1e-4, abs=1e-4)  # f32 sums of up to 14 terms


def test_one_beam_is_plain_greedy() -> None:
    ids, _ = _search(30, 5, [29], n_beams=1, max_new_tokens=12, repetition_penalty=1)
    expected: list[int] = []
    while len(expected) < 12 and (not expected or expected[-1] != 29):
        expected.append(int(_toy_logits(expected, 30, 5).argmax()))
    assert ids == expected


def test_drawing_beams() -> None:
    options = {"greedy": False, "max_new_tokens": 10, "repetition_penalty": 1.02}
    runs = [_search(30, 5, [29, 28], seed=s, **options)[0] for s in range(6)]
    assert runs[0] == _search(30, 5, [29, 28], seed=0, **options)[0]
    assert len({tuple(r) for r in runs}) > 1
    # Nearly all mass on one text.
    cold = [_search(30, 5, [29, 28], seed=s, temperature=1e-3, **options)[0] for s in range(3)]
    assert cold[0] == cold[1] == cold[2]
    assert 28 not in _search(30, 5, [28], greedy=False, min_new_tokens=9, max_new_tokens=9)[0][:-1]


def test_beam_search_refuses_nonsense() -> None:
    with pytest.raises(omni.InvalidArgumentError, match="0 beams"):
        _search(30, 5, [1], n_beams=0)
    with pytest.raises(omni.InvalidArgumentError, match="stop id 30"):
        _search(30, 5, [30])
    with pytest.raises(omni.InvalidArgumentError, match="7 logits; 90 are needed"):
        omni.beam_search(lambda p, t: np.zeros(7, np.float32), np.zeros(30, np.float32), [])
    with pytest.raises(ZeroDivisionError):
        omni.beam_search(lambda p, t: 1 / 0, np.zeros(30, np.float32), [])  # type: ignore[arg-type,return-value]
