"""Unusable checkpoints: every one gives an error that names the file and the reason."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import copy_checkpoint, raw_safetensors, split_checkpoint, write_safetensors

from omni.convert import Options, convert
from omni.convert.checkpoint import Checkpoint
from omni.convert.onnx_file import OnnxFile, module_path
from omni.convert.tokenizer import load_tokenizer
from omni.convert.torch_file import TorchFile
from omni.convert.weight_norm import MergedWeights
from omni.errors import FormatError, InvalidArgumentError, ModelFileError

LLM = Options(llm="F16", only=frozenset({"llm"}))


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return copy_checkpoint(tiny_checkpoint, tmp_path / "hf")


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


# ---- tensors ----


def test_missing_tensor(copy: Path, tmp_path: Path) -> None:
    values = raw_safetensors(copy / "model.safetensors")
    del values["llm.model.layers.1.mlp.up_proj.weight"]
    write_safetensors(copy / "model.safetensors", values)
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(FormatError, match=r"missing tensors: llm\.model\.layers\.1\.mlp\.up_proj\.weight"):
        convert(copy, tmp_path / "out", LLM)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["llm.model.layers.1.mlp.extra.weight", "somebody.else"])
def test_unknown_tensor(copy: Path, tmp_path: Path, name: str) -> None:
    values = raw_safetensors(copy / "model.safetensors")
    values[name] = np.zeros(3, np.float32)
    write_safetensors(copy / "model.safetensors", values)
    with pytest.raises(FormatError, match=f"unknown tensors: {name}"):
        convert(copy, tmp_path / "out", LLM)


def test_wrong_shape(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", lambda c: c.update(intermediate_size=500))
    with pytest.raises(FormatError, match=r"down_proj\.weight' has shape \[256, 512\].*says \[256, 500\]"):
        convert(copy, tmp_path / "out", LLM)


# ---- safetensors ----


def test_missing_shard(copy: Path) -> None:
    split_checkpoint(copy, 3)
    (copy / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelFileError, match="model-00002-of-00003"):
        Checkpoint(copy)


def test_index_names_a_tensor_that_no_shard_holds(copy: Path) -> None:
    edit_json(
        copy / "model.safetensors.index.json", lambda i: i["weight_map"].update(ghost="model.safetensors")
    )
    with pytest.raises(FormatError, match="ghost"):
        Checkpoint(copy)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b"])
def test_shard_names_stay_in_the_directory(copy: Path, name: str) -> None:
    edit_json(copy / "model.safetensors.index.json", lambda i: i["weight_map"].update(x=name))
    with pytest.raises(FormatError, match="not a plain file name"):
        Checkpoint(copy)


def header(entries: dict[str, object], data: bytes = b"") -> bytes:
    encoded = json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(**changes: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"\x10\0\0", "truncated"),
        (struct.pack("<Q", 1000) + b"{}", "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"{]", "damaged header"),
        (struct.pack("<Q", 4) + b"\xff\xfe\x00\x01", "damaged header"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 100000) + b"[" * 100000, "damaged header"),
        (header({"x": 3}), "damaged record"),
        (header(entry(dtype="I64"), bytes(16)), "stored as I64"),
        (header(entry(shape=[-2, -2]), bytes(16)), "damaged shape"),
        (header(entry(shape=[2, 2.0]), bytes(16)), "damaged shape"),
        (header(entry(shape=[True, 4]), bytes(16)), "damaged shape"),
        (header(entry(shape=[2**62, 2**62]), bytes(16)), "damaged shape"),
        (header(entry(shape=[2**47, 2**47]), bytes(16)), "do not hold"),
        (header(entry(data_offsets=[16, 0]), bytes(16)), "do not hold"),
        (header(entry(data_offsets=[0]), bytes(16)), "damaged shape"),
        (header(entry(), bytes(15)), "after the end of the file"),
        (header(entry(data_offsets=[2**40, 2**40 + 16]), bytes(16)), "after the end of the file"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        Checkpoint(tmp_path)


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"x": np.ones((100, 100), np.float32)})
    checkpoint = Checkpoint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(FormatError, match="bytes early"):
        checkpoint.read("x", 50, 60)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        convert(copy, copy / "out", LLM)


# ---- config ----


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"version": "2.6"}, "version"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "256"}, "hidden_size"),
        ({"hidden_size": 1e30}, "hidden_size"),
        ({"hidden_size": float("inf")}, "hidden_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"vision_config": 3}, "vision_config"),
        ({"tts_config": {"num_vq": 4}}, "num_vq"),
    ],
)
def test_unusable_config(copy: Path, tmp_path: Path, change: dict[str, object], reason: str) -> None:
    edit_json(copy / "config.json", lambda c: c.update(change))
    with pytest.raises(FormatError, match=reason):
        convert(copy, tmp_path / "out")


def test_config_that_is_no_json(copy: Path, tmp_path: Path) -> None:
    (copy / "config.json").write_bytes(b"{")
    with pytest.raises(FormatError, match=r"config\.json.*JSON"):
        convert(copy, tmp_path / "out")


def test_unknown_types_and_parts(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Q7_0.*choose one of"):
        convert(copy, tmp_path / "out", Options(llm="Q7_0"))
    with pytest.raises(InvalidArgumentError, match="Q4_K_M"):
        convert(copy, tmp_path / "out", Options(vision="Q4_K_M"))
    with pytest.raises(InvalidArgumentError, match="sound"):
        convert(copy, tmp_path / "out", Options(only=frozenset({"sound"})))


def test_unwritable_output(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="can't be written"):
        convert(copy, tmp_path / "file" / "out", LLM)


# ---- tokenizer ----


def test_reduced_merges_beside_the_full_table_are_ignored_with_a_warning(copy: Path) -> None:
    wanted = load_tokenizer(copy, 1302).merges
    lines = (copy / "merges.txt").read_text("utf-8").splitlines()
    (copy / "merges.txt").write_text("\n".join(lines[:-5]), "utf-8")
    with pytest.warns(UserWarning, match=r"merges\.txt has 923 merges, tokenizer\.json 928"):
        assert load_tokenizer(copy, 1302).merges == wanted


def test_reduced_merges_alone_are_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match=r"can't build \d+ Chinese words.*tokenizer\.json"):
        load_tokenizer(copy, 1302)


def test_complete_merges_alone_will_do(copy: Path) -> None:
    wanted = load_tokenizer(copy, 1302)
    vocabulary = json.loads((copy / "vocab.json").read_text("utf-8"))
    products = {a + b for a, b in (line.split(" ") for line in wanted.merges)}
    words = [t for t, i in vocabulary.items() if i >= 256 and t not in products and t != "<unk>"]
    for number, word in enumerate(words):  # ASCII names in place of the words that no merge builds
        vocabulary[f"word{number}"] = vocabulary.pop(word)
    (copy / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (copy / "tokenizer.json").unlink()
    found = load_tokenizer(copy, 1302)
    assert found.merges == wanted.merges
    assert found.types == wanted.types


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["model"].update(type="Unigram"), "BPE"),
        (lambda t: t["model"].update(byte_fallback=True), "byte_fallback"),
        (lambda t: t.update(normalizer=None), "NFC"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x"), "pre-tokenizer"),
        (lambda t: t["model"].update(vocab={}), "vocabulary"),
        (lambda t: t["model"]["vocab"].update(twin=5), "share the id 5"),
        (lambda t: t["model"]["vocab"].update(far=5000), "id 5000"),
        (lambda t: t["model"]["merges"].append(["only"]), "not a merge"),
        (lambda t: t["added_tokens"].append({"id": 3, "content": "x"}), "id 3 is both"),
        (lambda t: t["added_tokens"].append({"id": -1, "content": "x"}), "not an added token"),
        (lambda t: t["added_tokens"][5].update(special=False), "disagree"),
    ],
)
def test_unusable_tokenizer(copy: Path, change: Callable[[dict], object], reason: str) -> None:
    (copy / "merges.txt").unlink()
    edit_json(copy / "tokenizer.json", change)
    with pytest.raises(FormatError, match=reason):
        load_tokenizer(copy, 1302)


def test_special_tokens_must_exist(copy: Path) -> None:
    edit_json(copy / "tokenizer_config.json", lambda c: c.update(eos_token="<nowhere>"))
    with pytest.raises(FormatError, match="eos_token"):
        load_tokenizer(copy, 1302)


# ---- torch.save files ----


def archive(path: Path, description: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", description)
        for name, content in entries.items():
            file.writestr(f"x/data/{name}", content)
    return path


class Named:
    """Pickles as a call of any name with any arguments."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.call = (module, name, arguments)


class StorageName:
    """Pickles as the class torch.<name>."""

    def __init__(self, name: str) -> None:
        self.name = name


class Writer(pickle._Pickler):  # the Python one, whose opcodes can be written by hand
    def persistent_id(self, value: object) -> object:
        return value.pid if isinstance(value, Storage) else None

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if isinstance(value, Named):
            module, name, arguments = value.call
            self.write(b"c" + f"{module}\n{name}\n".encode())
            self.save(arguments)
            self.write(b"R")
        elif isinstance(value, StorageName):
            self.write(b"c" + f"torch\n{value.name}\n".encode())
        else:
            super().save(value, save_persistent_id)


class Storage:
    def __init__(self, key: object = "0", kind: object = "FloatStorage", count: int = 6) -> None:
        self.pid = ("storage", StorageName(kind) if isinstance(kind, str) else kind, key, "cpu", count)


def tensor(shape: tuple, stride: tuple, offset: object = 0, storage: object = None) -> Named:
    return Named("torch._utils", "_rebuild_tensor_v2", storage or Storage(), offset, shape, stride, False, {})


def dump(value: object) -> bytes:
    out = io.BytesIO()
    Writer(out, protocol=2).dump(value)
    return out.getvalue()


def test_torch_file_by_hand(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    path = archive(
        tmp_path / "a.pt", dump({"w": tensor((2, 2), (2, 1), 1), "step": 3}), **{"0": numbers.tobytes()}
    )
    file = TorchFile(path)
    assert file.shapes() == {"w": (2, 2)}
    np.testing.assert_array_equal(file.read("w"), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(file.read("w", 1, 2), [[3, 4]])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"w": Named("os", "system", "touch hacked")}, "os.system"),
        ({"w": Named("builtins", "eval", "1")}, "builtins.eval"),
        ({"w": tensor((2,), (1,), storage=Storage(kind="LongStorage"))}, "LongStorage"),
        ({"w": tensor((2,), (1,), storage=Storage(key="../../etc"))}, "unknown storage"),
        ({"w": tensor((2,), (1,), -4)}, "damaged shape"),
        ({"w": tensor((2, -1), (1, 1))}, "damaged shape"),
        ({"w": tensor((2**50,), (1,))}, "damaged shape"),
        ({"w": tensor((1, 1, 1, 1, 1), (1, 1, 1, 1, 1))}, "damaged shape"),
        ({"w": tensor((2, 3), (1, 2))}, "contiguous"),
        ({"w": tensor((2, 3), (1,))}, "damaged"),
        ({"w": tensor((0, 3), (3, 1))}, "contiguous"),
        ([1, 2], "dictionary"),
        ({3: tensor((2,), (1,))}, "dictionary"),
        ({}, "no tensors"),
    ],
)
def test_hostile_torch_descriptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=reason):
        TorchFile(archive(tmp_path / "a.pt", dump(value), **{"0": bytes(24)}))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (b"", "damaged description"),
        (b"\x80\x02}", "damaged description"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "description is damaged"),  # a memo of four billion places
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.", "FRAME"),
        (b"(S'echo'\nios\nsystem\n.", "STRING|INST"),
        (b"\x80\x02}}}}}s.", "damaged"),
    ],
)
def test_damaged_pickles(tmp_path: Path, description: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        TorchFile(archive(tmp_path / "a.pt", description))


def test_damaged_torch_archives(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = (tiny_checkpoint / "assets" / "token2wav" / "hift.pt").read_bytes()
    for size in (0, 10, 5000, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.pt"):
            TorchFile(tmp_path / "cut.pt")
    with pytest.raises(ModelFileError, match="absent"):
        TorchFile(tmp_path / "absent.pt")
    good = dump({"w": tensor((6,), (1,))})
    with pytest.raises(FormatError, match="damaged or missing"):
        TorchFile(archive(tmp_path / "a.pt", good)).read("w")
    with pytest.raises(FormatError, match="too small"):
        TorchFile(archive(tmp_path / "a.pt", good, **{"0": bytes(20)})).read("w")
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", good)
        file.writestr("x/data/0", bytes(24))
    with pytest.raises(FormatError, match="compressed"):
        TorchFile(tmp_path / "b.pt").read("w")


def test_weight_norm_spellings(tmp_path: Path) -> None:
    class Fixed:
        def __init__(self, **tensors: np.ndarray) -> None:
            self.tensors = {
                name.replace("__", "."): value.astype(np.float32) for name, value in tensors.items()
            }

        def shapes(self) -> dict[str, tuple[int, ...]]:
            return {name: value.shape for name, value in self.tensors.items()}

        def read(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
            return self.tensors[name][first:last]

    v, g = np.array([[[3.0, 4.0]], [[0.0, 2.0]]]), np.array([[[10.0]], [[1.0]]])
    merged = MergedWeights(
        Fixed(generator__a__weight_v=v, generator__a__weight_g=g, generator__a__bias=g), "generator."
    )
    assert merged.shapes() == {"a.weight": (2, 1, 2), "a.bias": (2, 1, 1)}
    np.testing.assert_array_equal(merged.read("a.weight"), [[[6, 8]], [[0, 1]]])
    np.testing.assert_array_equal(merged.read("a.weight", 1, 2), [[[0, 1]]])
    with pytest.raises(FormatError, match="don't fit"):
        MergedWeights(Fixed(a__weight_v=v, a__weight_g=g[:1]))
    with pytest.raises(FormatError, match="twice"):
        MergedWeights(Fixed(a__weight_v=v, a__weight_g=g, a__weight=v))


# ---- the token2wav folder ----


def token2wav(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(checkpoint / "assets" / "token2wav", tmp_path / "t2w", copy_function=shutil.copyfile)
    )


@pytest.mark.parametrize("name", ["flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2_25hz.onnx"])
def test_missing_token2wav_file(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = token2wav(tiny_checkpoint, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=name):
        convert(tiny_checkpoint, tmp_path / "out", Options(only=frozenset({"token2wav"}), token2wav=folder))


def test_swapped_token2wav_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = Options(only=frozenset({"token2wav"}), token2wav=token2wav(tiny_checkpoint, tmp_path))
    folder = options.token2wav
    assert folder is not None
    shutil.copyfile(folder / "hift.pt", folder / "hift_original.pt")
    with pytest.raises(FormatError, match="same kind of vocoder"):
        convert(tiny_checkpoint, tmp_path / "out", options)
    (folder / "hift_original.pt").unlink()
    shutil.copyfile(folder / "hift.pt", folder / "flow.pt")
    with pytest.raises(FormatError, match=r"flow\.pt.*missing"):
        convert(tiny_checkpoint, tmp_path / "out", options)


def test_checkpoint_without_token2wav(copy: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="will not be able to speak"):
        paths = convert(copy, tmp_path / "out")
    assert len(paths) == 5
    with pytest.raises(ModelFileError, match=r"assets/token2wav.*flow\.pt"):
        convert(copy, tmp_path / "out", Options(only=frozenset({"token2wav"})))


def test_damaged_onnx(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError, match=r"a\.onnx"):
        OnnxFile(tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match="absent"):
        OnnxFile(tmp_path / "absent.onnx")


def test_module_path() -> None:
    assert module_path("/head/layer1/layer1.0/shortcut/shortcut.0/Conv") == "head.layer1.0.shortcut.0"
    assert module_path("/blocks.0/mlp/mlp.2/MatMul") == "blocks.0.mlp.2"
    assert module_path("Conv") == module_path("") == ""
