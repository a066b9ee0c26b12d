"""Conversion of the language model: values, layout, metadata, sizes at the published dimensions."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import copy_checkpoint, raw_safetensors, split_checkpoint
from safetensors import safe_open

from omni import _ext
from omni.convert import Options, convert
from omni.convert.checkpoint import Checkpoint, decode_floats
from omni.convert.config import LlmSizes
from omni.convert.job import plan_conversion, run_job
from omni.convert.llm import plan_llm
from omni.convert.plan import padded
from omni.convert.tokenizer import bad_token_rule, load_tokenizer
from omni.convert.weight_types import MIXES
from omni.model_files import find_model_files


@pytest.fixture(scope="module")
def llm_reader(tiny_model_dir: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(tiny_model_dir / "MiniCPM-o-4_5-F32.gguf")


def test_every_value_equals_the_checkpoint(llm_reader: gguf.GGUFReader, tiny_checkpoint: Path) -> None:
    source = raw_safetensors(tiny_checkpoint / "model.safetensors")
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    layer = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for i in range(3):
        names |= {f"blk.{i}.{ours}": f"model.layers.{i}.{hf}" for ours, hf in layer.items()}
    tensors = {t.name: t for t in llm_reader.tensors}
    assert set(tensors) == {f"{name}.weight" for name in names}
    for ours, hf in names.items():
        np.testing.assert_array_equal(
            tensors[f"{ours}.weight"].data, source[f"llm.{hf}.weight"], err_msg=ours
        )


def test_metadata(llm_reader: gguf.GGUFReader, tiny_checkpoint: Path) -> None:
    def value(key: str) -> object:
        return llm_reader.fields[key].contents()

    settings = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text("utf-8"))
    model = json.loads((tiny_checkpoint / "tokenizer.json").read_text("utf-8"))["model"]
    assert value("general.architecture") == "qwen3"
    assert value("general.file_type") == 0
    assert value("qwen3.block_count") == 3
    assert value("qwen3.embedding_length") == 256
    assert value("qwen3.feed_forward_length") == 512
    assert value("qwen3.attention.head_count") == 4
    assert value("qwen3.attention.head_count_kv") == 2
    assert value("qwen3.attention.key_length") == value("qwen3.attention.value_length") == 64
    assert value("qwen3.context_length") == 40960
    assert value("qwen3.rope.freq_base") == 1e6
    assert value("qwen3.attention.layer_norm_rms_epsilon") == np.float32(1e-6)
    assert value("tokenizer.ggml.model") == "gpt2"
    assert value("tokenizer.ggml.pre") == "qwen2"
    assert value("tokenizer.chat_template") == settings["chat_template"]
    assert value("tokenizer.ggml.merges") == [" ".join(pair) for pair in model["merges"]]
    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert isinstance(tokens, list) and isinstance(types, list)
    assert len(tokens) == len(types) == 1302
    for token, number in model["vocab"].items():
        assert tokens[number] == token
    for number, entry in settings["added_tokens_decoder"].items():
        assert tokens[int(number)] == entry["content"]
        assert types[int(number)] == (3 if entry["special"] else 4)
    assert [i for i, t in enumerate(types) if t != 1] == sorted(
        int(i) for i in settings["added_tokens_decoder"]
    )
    assert tokens[value("tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert tokens[value("tokenizer.ggml.bos_token_id")] == "<|im_start|>"
    assert tokens[value("tokenizer.ggml.padding_token_id")] == "<|endoftext|>"
    assert value("tokenizer.ggml.add_bos_token") is False


def test_bad_token_ids_are_stored_only_where_the_rule_fails(
    llm_reader: gguf.GGUFReader, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text("utf-8"))
    tokenizer = load_tokenizer(tiny_checkpoint, 1302)
    assert tokenizer.base_size == 1197
    assert bad_token_rule(tokenizer.tokens[:1197]) == settings["bad_token_ids"]
    assert "omni.bad_token_ids" not in llm_reader.fields

    copy = copy_checkpoint(tiny_checkpoint, tmp_path / "hf")
    settings["bad_token_ids"] = [5, 3]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    convert(copy, tmp_path / "out", Options(llm="F16", only=frozenset({"llm"})))
    reader = gguf.GGUFReader(tmp_path / "out" / "MiniCPM-o-4_5-F16.gguf")
    assert reader.fields["omni.bad_token_ids"].contents() == [3, 5]


# Bytes of the published files; the block before the tensors is the same in all of them but for the records'
# types, which take no room.
PUBLISHED = {
    "F16": 16_384_959_136,
    "Q8_0": 8_707_877_536,
    "Q6_K": 6_724_631_456,
    "Q5_1": 6_192_553_760,
    "Q5_K_M": 5_849_946_912,
    "Q5_K_S": 5_719_595_808,
    "Q5_0": 5_719_595_808,
    "Q4_1": 5_246_637_856,
    "Q4_K_M": 5_026_714_400,
    "Q4_K_S": 4_800_942_880,
    "Q4_0": 4_773_679_904,
}
PUBLISHED_METADATA = 5_928_614


@pytest.mark.parametrize("quant", PUBLISHED)
def test_published_sizes(quant: str) -> None:
    plan = plan_llm(LlmSizes(), quant, None, "", "x.gguf")
    assert len(plan.tensors) == 399
    records = sum(24 + len(t.name) + 8 * len(t.shape) for t in plan.tensors)
    data = sum(padded(t.size) for t in plan.tensors)
    assert padded(24 + PUBLISHED_METADATA + records) + data == PUBLISHED[quant]


def test_q4_k_m_mix_at_published_dimensions() -> None:
    plan = plan_llm(LlmSizes(), "Q4_K_M", None, "", "x.gguf")
    more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35}
    for tensor in plan.tensors:
        part = tensor.name.split(".")
        if len(tensor.shape) == 1:
            assert tensor.type == "F32"
        elif part[0] == "output" or (part[-2] in ("attn_v", "ffn_down") and int(part[1]) in more):
            assert tensor.type == "Q6_K", tensor.name
        else:
            assert tensor.type == "Q4_K", tensor.name


def test_rows_that_no_k_block_divides_fall_back_and_say_so() -> None:
    sizes = LlmSizes(num_hidden_layers=1, hidden_size=96, intermediate_size=100, vocab_size=10)
    plan = plan_llm(sizes, "Q4_K_M", None, "", "x.gguf")
    types = {t.name: t.type for t in plan.tensors}
    assert types["token_embd.weight"] == "Q5_0"
    assert types["output.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert any("token_embd.weight" in note and "Q5_0" in note for note in plan.notes)
    types = {t.name: t.type for t in plan_llm(sizes, "Q5_K_S", None, "", "x.gguf").tensors}
    assert types["token_embd.weight"] == "Q5_1"


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0", "Q4_K_M", "Q5_K_M", "Q4_0"])
def test_quantised_values(quant: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (path,) = convert(tiny_checkpoint, tmp_path, Options(llm=quant, only=frozenset({"llm"})))
    source = raw_safetensors(tiny_checkpoint / "model.safetensors")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.file_type"].contents() == MIXES[quant].file_type
    tensor = next(t for t in reader.tensors if t.name == "blk.2.ffn_down.weight")
    assert tensor.tensor_type.name == MIXES[quant].type_of(tensor.name, 3, 512)
    ours = gguf.dequantize(tensor.data, tensor.tensor_type)
    wanted = source["llm.model.layers.2.mlp.down_proj.weight"]
    # Half a step of the widest block: values span at most 2 max|x|, in 16 steps at the coarsest (Q4), and the
    # K types spend up to half a step more on quantised block scales.
    steps = {"F16": 2**11, "BF16": 2**30, "Q8_0": 254, "Q4_K_M": 15, "Q5_K_M": 31, "Q4_0": 15}[quant]
    assert np.abs(ours - wanted).max() <= 2 * np.abs(wanted).max() / steps
    assert not np.array_equal(ours, wanted) or quant == "BF16"


def test_shards_give_the_same_file(tiny_checkpoint: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = copy_checkpoint(tiny_checkpoint, tmp_path / "hf")
    split_checkpoint(copy, 3)
    (path,) = convert(copy, tmp_path / "out", Options(llm="F32", only=frozenset({"llm"})))
    assert path.read_bytes() == (tiny_model_dir / path.name).read_bytes()


def test_reader_agrees_with_the_safetensors_package(tiny_checkpoint: Path) -> None:
    ours = Checkpoint(tiny_checkpoint)
    with safe_open(tiny_checkpoint / "model.safetensors", framework="numpy") as theirs:
        assert set(ours.shapes()) == set(theirs.keys())
        for name, shape in ours.shapes().items():
            assert tuple(theirs.get_slice(name).get_shape()) == shape
    table = ours.read("apm.embed_positions.weight")
    np.testing.assert_array_equal(ours.read("apm.embed_positions.weight", 700, 703), table[700:703])


def test_decode_floats() -> None:
    wanted = np.array([0.0, -1.5, 3.140625, 65280.0], np.float32)
    bf16 = (wanted.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(decode_floats(bf16.view(np.uint8), "BF16"), wanted)
    np.testing.assert_array_equal(decode_floats(wanted.astype(np.float16).view(np.uint8), "F16"), wanted)
    np.testing.assert_array_equal(decode_floats(wanted.view(np.uint8), "F32"), wanted)


def test_finished_files_are_kept_and_unfinished_ones_redone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (job,) = plan_conversion(tiny_checkpoint, Options(llm="F16", only=frozenset({"llm"})))
    assert run_job(job, tmp_path)
    path = tmp_path / job.plan.path
    whole = path.read_bytes()
    assert not run_job(job, tmp_path)
    assert run_job(job, tmp_path, force=True)
    path.write_bytes(whole[:-32])
    assert run_job(job, tmp_path)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    # A file of other settings with the right name and size is not taken for finished.
    for text in (b"blk.0.attn_q.weight", b"<|tts_bos|>", b"{%- "):
        wrong = bytearray(whole)
        wrong[whole.index(text)] = ord("c")
        path.write_bytes(wrong)
        assert run_job(job, tmp_path)
        assert path.read_bytes() == whole


def test_model_files(tiny_model_dir: Path) -> None:
    files = find_model_files(tiny_model_dir)
    assert files.llm == tiny_model_dir / "MiniCPM-o-4_5-F32.gguf"
    assert find_model_files(files.llm).directory == tiny_model_dir
    assert find_model_files(tiny_model_dir, "f32") == files


def test_planned_size_is_the_written_size(tiny_checkpoint: Path, tiny_model_dir: Path) -> None:
    for job in plan_conversion(tiny_checkpoint, Options.uniform("F32"), need_weights=False):
        file = _ext.GgufFile(str(tiny_model_dir / job.plan.path))
        assert file.file_size == job.plan.file_size()
        assert [(n, k, ne) for n, k, ne, _, _ in file.tensors()] == [
            (t.name, t.type, t.shape[::-1]) for t in job.plan.tensors
        ]
