"""The tokenizer against the reference's ids, the pattern's own engine, and bad tables."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import regex
import tiny_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vocabulary import GOLDEN

import omni
from omni import _ext

CASES = json.loads((GOLDEN / "tokenizer_cases.json").read_text(encoding="utf-8"))
REAL_CASES = json.loads((GOLDEN / "tokenizer_cases_realvocab.json").read_text(encoding="utf-8"))["cases"]
PATTERN = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _assigned(char: str) -> bool:
    # Characters that every Unicode version at hand knows; newer ones differ between libraries.
    return unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Cs")


CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(_assigned)
# Text in which the cases of the pattern, and combining characters, come close together.
TEXT = st.text(
    CHARACTERS
    | st.sampled_from(
        "'sStTreREvVmMlLdD ſ \t\r\n\u00a0\u3000 1２④ab你好é\u0301\u0323\u1100\u1161\u11a8가.,!<>|"
    )
)


@pytest.fixture(scope="module")
def tiny() -> omni.Tokenizer:
    return tiny_vocabulary.tokenizer(bos=1198, eos=1199, pad=1197)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda c: repr(c["text"])[:30])
def test_reference_ids(tiny: omni.Tokenizer, case: dict[str, Any]) -> None:
    assert tiny.encode(case["text"]) == case["ids"]
    assert tiny.decode(case["ids"]) == case["decoded"]


def test_reference_prompts(tiny: omni.Tokenizer) -> None:
    for case in CASES["chat_template"]:
        assert tiny.encode(case["prompt"]) == case["ids"]


def test_special_tokens(tiny: omni.Tokenizer) -> None:
    assert {text: tiny.id_of(text) for text in CASES["special"]} == CASES["special"]
    assert (tiny.bos_id, tiny.eos_id, tiny.pad_id) == (CASES["bos"], CASES["eos"], CASES["pad"])
    assert tiny.id_of("<unk>") == CASES["unk"]
    assert tiny.id_of("no such token") is None
    assert tiny.vocab_size == len(tiny) == 1302
    with pytest.raises(omni.FormatError, match="no such token"):
        tiny.required_id("no such token")


def test_skip_special_drops_control_tokens_only(tiny: omni.Tokenizer) -> None:
    ids = tiny.encode("<|im_start|>a<unk><think>b</think><tool_call><unit>c<|im_end|>")
    assert tiny.decode(ids, skip_special=True) == "a<think>b</think><tool_call>c"
    assert tiny.decode(ids) == "<|im_start|>a<unk><think>b</think><tool_call><unit>c<|im_end|>"


def test_literal_tokens_can_be_spelled_out(tiny: omni.Tokenizer) -> None:
    text = "a<|im_end|>b<unk>"
    ids = tiny.encode(text, literal_tokens=False)
    assert not any(tiny.is_special(i) for i in ids)
    assert tiny.decode(ids) == text


def test_bad_token_ids(tiny: omni.Tokenizer) -> None:
    assert tiny.bad_token_ids == CASES["bad_token_ids"]
    assert tiny_vocabulary.tokenizer(bad_token_ids=[9, 7, 9]).bad_token_ids == [7, 9]


def test_literal_match_is_leftmost_and_longest() -> None:
    t = tiny_vocabulary.tables()
    first = len(t["tokens"])
    t["tokens"] += ["<a", "<a><a>", "a><b", "<a>"]
    t["types"] += [4, 4, 4, 4]
    tokenizer = tiny_vocabulary.tokenizer(**t)
    assert tokenizer.encode("<a><a>") == [first + 1]
    assert tokenizer.encode("<a><b") == [first + 3, *tokenizer.encode("<b")]  # not "a><b", which begins later
    assert tokenizer.encode("<a<a>") == [first, first + 3]


def test_literal_tokens_are_not_normalized() -> None:
    t = tiny_vocabulary.tables()
    t["tokens"].append("<e\u0301>")
    t["types"].append(4)
    tokenizer = tiny_vocabulary.tokenizer(**t)
    assert tokenizer.encode("<e\u0301>") == [len(t["tokens"]) - 1]
    assert len(tokenizer.encode("<é>")) > 1


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_pieces_are_those_of_the_pattern(text: str) -> None:
    assert _ext.pieces(text) == PATTERN.findall(text)


@pytest.mark.parametrize(
    "ending", ["s", "S", "ſ", "t", "re", "Re", "vE", "m", "ll", "lL", "d", "l", "r", "K"]
)
def test_contractions(ending: str) -> None:
    for text in ("it'" + ending + "x", "'" + ending, " '" + ending + " "):
        assert _ext.pieces(text) == PATTERN.findall(text)


def test_pieces_of_the_real_cases() -> None:
    for case in REAL_CASES:
        assert _ext.pieces(case["text"]) == PATTERN.findall(case["text"])


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_character_classes(kind: str) -> None:
    # What the pattern does between a control character and a letter depends on the class alone.
    text = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]) if _assigned(c)]
    members = [c for c in text if regex.match(kind, c)]
    assert len(members) > 20
    for c in members if kind != r"\p{L}" else members[::7]:
        assert _ext.pieces("\x01" + c + "x") == PATTERN.findall("\x01" + c + "x")


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_nfc(text: str) -> None:
    assert _ext.nfc(text) == unicodedata.normalize("NFC", text)


def test_nfc_of_every_character() -> None:
    for c in filter(_assigned, map(chr, [*range(0xD800), *range(0xE000, 0x110000)])):
        for text in (c, "e" + c, c + "\u0323\u0301"):
            expected = unicodedata.normalize("NFC", text)
            if _ext.nfc(text) != expected:
                pytest.fail(f"{text!r}: {_ext.nfc(text)!r}, not {expected!r}")


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_decoding_gives_the_text_back(tiny: omni.Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text, literal_tokens=False)) == unicodedata.normalize("NFC", text)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 1301)), skip=st.booleans())
def test_streamed_text_equals_decoded_text(tiny: omni.Tokenizer, ids: list[int], skip: bool) -> None:
    stream = omni.Detokenizer(tiny, skip_special=skip)
    text = "".join(stream.push(i) for i in ids) + stream.flush()
    assert text == tiny.decode(ids, skip_special=skip)
    # Python's decoder and ours agree on what an invalid sequence is.
    raw = b"".join(tiny.bytes_of(i) for i in ids if not (skip and tiny.is_special(i)))
    assert text == raw.decode("utf-8", errors="replace")


def test_cut_characters_are_held_back(tiny: omni.Tokenizer) -> None:
    stream = omni.Detokenizer(tiny)
    ids = tiny.encode("😀")
    assert [stream.push(i) for i in ids] == [""] * (len(ids) - 1) + ["😀"]
    assert stream.push(ids[0]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, " " * 300_000, "\u0301\u0323" * 200_000, "<|im_" * 100_000]
)
def test_hostile_text_takes_no_quadratic_time(tiny: omni.Tokenizer, text: str) -> None:
    begin = time.perf_counter()
    tiny.encode(text)
    assert time.perf_counter() - begin < 20  # a quadratic way takes hours


@pytest.mark.parametrize("ids", [[-1], [1302], [2**31 - 1]])
def test_ids_outside_of_the_vocabulary(tiny: omni.Tokenizer, ids: list[int]) -> None:
    with pytest.raises(omni.InvalidArgumentError, match="outside of the vocabulary"):
        tiny.decode(ids)
    with pytest.raises(omni.InvalidArgumentError, match="outside of the vocabulary"):
        omni.Detokenizer(tiny).push(ids[0])


def _broken(change: str) -> dict[str, Any]:
    t = tiny_vocabulary.tables()
    merges = t["merges"]
    return {
        "types too short": t | {"types": t["types"][:-1]},
        "type 9": t | {"types": [9, *t["types"][1:]]},
        "no tokens": t | {"tokens": [], "types": []},
        "same token twice": t | {"tokens": [*t["tokens"], "a"], "types": [*t["types"], 1]},
        "no byte token": t | {"tokens": ["", *t["tokens"][1:]]},
        "empty literal": t | {"tokens": [*t["tokens"], ""], "types": [*t["types"], 3]},
        "endless literal": t | {"tokens": [*t["tokens"], "<" * 300], "types": [*t["types"], 3]},
        "unknown part": t | {"merges": [*merges, "a 你"]},
        "unknown result": t | {"merges": [*merges, "! Ġ"]},
        "one part": t | {"merges": [*merges, "ab"]},
        "three parts": t | {"merges": [*merges, "a b c"]},
        "same merge twice": t | {"merges": [*merges, merges[0]]},
        "eos outside": t | {"eos": 1302},
        "bad id outside": t | {"bad_token_ids": [1302]},
        "other pre-tokenizer": t | {"pre": "llama-bpe"},
    }[change]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("types too short", "1302 tokens, but 1301 token types"),
        ("type 9", "token 0 has the unknown type 9"),
        ("no tokens", "empty"),
        ("same token twice", 'tokens 64 and 1302 are the same, "a"'),
        ("no byte token", "no token for the byte 33"),
        ("empty literal", "token 1302 .* 0 bytes"),
        ("endless literal", "token 1302 .* 300 bytes"),
        ("unknown part", 'merge 928, "a 你", needs the token "你"'),
        ("unknown result", 'merge 928, "! Ġ", needs the token "!Ġ"'),
        ("one part", "merge 928"),
        ("three parts", "merge 928"),
        ("same merge twice", "merge 928.*repeats"),
        ("eos outside", "eos id 1302"),
        ("bad id outside", "bad token id 1302"),
        ("other pre-tokenizer", "llama-bpe"),
    ],
)
def test_bad_tables_are_refused(change: str, message: str) -> None:
    with pytest.raises(omni.OmniError, match=message):
        tiny_vocabulary.tokenizer(**_broken(change))


def test_from_gguf(tmp_path: Path, tiny: omni.Tokenizer) -> None:
    path = tiny_vocabulary.write_gguf(
        tmp_path / "模型.gguf", tokenizer_ggml_eos_token_id=1199, omni_bad_token_ids=[5, 3]
    )
    tokenizer = omni.Tokenizer(path)
    assert tokenizer.eos_id == 1199
    assert tokenizer.bos_id is None
    assert tokenizer.bad_token_ids == [3, 5]
    for case in CASES["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"]


@pytest.mark.parametrize("key", ["model", "pre", "tokens", "token_type", "merges"])
def test_missing_keys_are_named(tmp_path: Path, key: str) -> None:
    path = tiny_vocabulary.write_gguf(tmp_path / "x.gguf", leave_out=f"tokenizer.ggml.{key}")
    with pytest.raises(omni.FormatError, match=rf"x\.gguf.*tokenizer\.ggml\.{key}"):
        omni.Tokenizer(path)


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tiny_vocabulary.write_gguf(tmp_path / "x.gguf", tokenizer_ggml_model="llama")
    with pytest.raises(omni.UnsupportedError, match="llama"):
        omni.Tokenizer(path)
    with pytest.raises(omni.ModelFileError, match="nothing"):
        omni.Tokenizer(tmp_path / "nothing.gguf")


def test_reduced_merges_are_detected(tiny: omni.Tokenizer) -> None:
    assert tiny.has_multi_character_merges  # the vocabulary has no such token, nothing to miss
    t = tiny_vocabulary.tables()
    parts = [tiny_vocabulary.tables()["tokens"][i] for i in tiny.encode("你好")]
    t["tokens"].append("".join(parts))
    t["types"].append(1)
    assert not tiny_vocabulary.tokenizer(**t).has_multi_character_merges
    t["merges"].append(" ".join(parts))
    assert tiny_vocabulary.tokenizer(**t).has_multi_character_merges


def test_lone_surrogates_are_refused(tiny: omni.Tokenizer) -> None:
    with pytest.raises((UnicodeEncodeError, TypeError)):
        tiny.encode("\ud800")
    with pytest.raises(omni.InvalidArgumentError, match="not UTF-8 at byte 1"):
        tiny.encode(b"a\xff")  # type: ignore[arg-type]
