"""Downloads from a stand-in of the hubs: what is taken, what goes wrong, and what is said about it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, REPOSITORY, Hub, serve

import omni
from omni.hub import HubOptions, download_model, is_repository
from omni.hub.names import is_plain_path

NAMES = (
    "MiniCPM-o-4_5-F16.gguf",
    "MiniCPM-o-4_5-Q4_K_M.gguf",
    "MiniCPM-o-4_5-Q8_0.gguf",
    "audio/MiniCPM-o-4_5-audio-F16.gguf",
    "token2wav-gguf/encoder.gguf",
    "token2wav-gguf/prompt_cache.gguf",
    "tts/MiniCPM-o-4_5-projector-F16.gguf",
    "tts/MiniCPM-o-4_5-tts-F16.gguf",
    "vision/MiniCPM-o-4_5-vision-F16.gguf",
)
Q4, Q8 = NAMES[1], NAMES[2]
QUICK = HubOptions(quiet=True, retries=2, retry_seconds=0.001, timeout=10)
HUB_VARIABLES = (
    "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_CACHE_HOME",
    "OMNI_MODEL_SOURCE", "OMNI_MODEL", "OMNI_HF_REPO", "MODELSCOPE_CACHE", "MODELSCOPE_ENDPOINT",
    "MODELSCOPE_API_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
)  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # Three blocks of a transfer, and a little.
    contents = {name: os.urandom(40_000 + i) for i, name in enumerate(NAMES)}
    contents[Q4] = os.urandom((3 << 20) + 12345)
    with serve(contents) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
        yield hub


def names_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.gguf"))


def partials(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.incomplete"))


# ---- what is taken ----


def test_only_what_is_needed_lands_in_the_cache_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    path = download_model(REPOSITORY, parts={"audio"}, options=QUICK)
    folder = tmp_path / "hf" / "hub" / "models--someone--tiny-gguf"
    assert path == folder / "snapshots" / COMMIT / Q4
    assert names_in(path.parent) == sorted([Q4, NAMES[3]])
    assert path.read_bytes() == hub.files[Q4]
    assert (folder / "blobs" / hashlib.sha256(hub.files[Q4]).hexdigest()).is_file()
    assert (folder / "refs" / "main").read_text() == COMMIT
    download_model(f"{REPOSITORY}:q8_0", parts={"speech", "vision"}, options=QUICK)
    assert names_in(path.parent) == sorted(NAMES[1:])
    # What is there is not fetched again.
    hub.requests.clear()
    assert download_model(REPOSITORY, "Q4_K_M", options=QUICK) == path
    assert not hub.sent("/resolve/")
    assert not partials(tmp_path)


def test_quantisations_and_files_that_do_not_exist(hub: Hub) -> None:
    with pytest.raises(omni.InvalidArgumentError, match=r"no quantisation Q3_K.*F16, Q4_K_M, Q8_0"):
        download_model(f"{REPOSITORY}:Q3_K", options=QUICK)
    with pytest.raises(omni.InvalidArgumentError, match=r"no file x\.gguf.*MiniCPM-o-4_5-F16\.gguf"):
        download_model(REPOSITORY, options=replace(QUICK, file="x.gguf"))
    assert not hub.sent("/resolve/")
    assert download_model(REPOSITORY, parts=(), options=replace(QUICK, file=Q8)).name == Q8
    del hub.files[Q4]
    with pytest.raises(omni.InvalidArgumentError, match=r"no quantisation Q4_K_M.*F16, Q8_0"):
        download_model(REPOSITORY, options=QUICK)
    hub.files = {name: data for name, data in hub.files.items() if "/" in name}
    with pytest.raises(omni.ModelFileError, match="holds no language model"):
        download_model(REPOSITORY, options=QUICK)


def test_references() -> None:
    assert is_repository("openbmb/MiniCPM-o-4_5-gguf") and is_repository("a/b:Q4_K_M")
    for text in ("a", "a/b/c", "/a/b", "./b", "../b", "a/b:", "a b/c", "https://a/b"):
        assert not is_repository(text)
        with pytest.raises(omni.InvalidArgumentError, match="owner/name"):
            download_model(text)
    assert is_plain_path("tts/x.gguf")
    for path in ("", "../x.gguf", "a/../x.gguf", "/x.gguf", "a//x.gguf", "a\\x.gguf", "c:x.gguf", "./x.gguf"):
        assert not is_plain_path(path)


def test_paths_of_a_hub_stay_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.files["../../../escaped.gguf"] = b"x"
    with pytest.raises(omni.FormatError, match=r"escaped.*path"):
        download_model(REPOSITORY, options=QUICK)
    assert not list(tmp_path.rglob("*.gguf"))


# ---- interruptions ----


def test_an_interrupted_transfer_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.cuts = [1 << 20, 1 << 20]
    path = download_model(REPOSITORY, parts=(), options=QUICK)
    assert path.read_bytes() == hub.files[Q4]
    ranges = [headers.get("Range") for _, _, headers in hub.sent("/cdn/")]
    assert ranges[0] is None
    begins = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges[1:] if text]
    assert len(begins) == 2 and 0 < begins[0] < begins[1] <= 2 << 20


def test_another_process_goes_on_where_the_last_one_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [500_000, 0, 0]
    with pytest.raises(omni.ModelFileError, match=r"ended after 500,000 of 3,158,073"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    assert [path.stat().st_size for path in partials(tmp_path)] == [500_000]
    hub.requests.clear()
    assert download_model(REPOSITORY, parts=(), options=QUICK).read_bytes() == hub.files[Q4]
    assert [headers["Range"] for _, _, headers in hub.sent("/cdn/")] == ["bytes=500000-"]
    assert not partials(tmp_path)


def test_a_server_that_cannot_go_on_begins_again(hub: Hub) -> None:
    hub.no_ranges = True
    hub.cuts = [500_000]
    assert download_model(REPOSITORY, parts=(), options=QUICK).read_bytes() == hub.files[Q4]


def test_a_partial_file_that_is_too_long_or_of_something_else(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [0, 0, 0]
    with pytest.raises(omni.ModelFileError, match="ended after 0"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    [partial] = partials(tmp_path)
    partial.write_bytes(bytes(len(hub.files[Q4]) + 1))
    assert download_model(REPOSITORY, parts=(), options=QUICK).read_bytes() == hub.files[Q4]
    shutil.rmtree(tmp_path / "hf")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(len(hub.files[Q4])))
    with pytest.raises(omni.FormatError, match=r"SHA-256.*try again"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    assert download_model(REPOSITORY, parts=(), options=QUICK).read_bytes() == hub.files[Q4]


def test_two_at_once_download_once(hub: Hub) -> None:
    found: list[bytes] = []

    def download() -> None:
        found.append(download_model(REPOSITORY, parts=(), options=QUICK).read_bytes())

    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hub.files[Q4]] * 4
    assert len(hub.sent("/cdn/")) == 1


# ---- contents ----


def test_a_wrong_checksum_is_found_and_nothing_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.listed[Q4] = {"sha256": "a" * 64}
    with pytest.raises(omni.FormatError, match=rf"{Q4}: .*SHA-256 .*lists a{{64}}"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    assert not names_in(tmp_path) and not partials(tmp_path)


def test_wrong_sizes(hub: Hub, tmp_path: Path) -> None:
    hub.listed[Q4] = {"size": len(hub.files[Q4]) + 1}
    with pytest.raises(omni.FormatError, match=r"lists 3,158,074 bytes, the server has 3,158,073"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    hub.listed.clear()
    hub.cuts, hub.extra = [1000, 0, 0, 0], b"and more"
    with pytest.raises(omni.FormatError, match=r"lists 3,158,073 bytes, the server has 3,158,081"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    assert not names_in(tmp_path)


def test_answers_that_are_no_list(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in ({"sha256": "A" * 64}, {"sha256": 3}, {"size": -1}, {"size": "1"}):
        hub.listed[Q4] = change
        with pytest.raises(omni.FormatError, match="usable path, size or checksum"):
            download_model(REPOSITORY, options=QUICK)
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.address}/cdn/{Q8}?")
    with pytest.raises(omni.FormatError, match="is it a hub"):
        download_model(REPOSITORY, options=QUICK)


# ---- refusals ----


def test_refusals_say_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(omni.ModelFileError, match=r"someone/else.*404: it does not exist"):
        download_model("someone/else", options=QUICK)
    with pytest.raises(omni.ModelFileError, match=r"revision v9.*no such revision"):
        download_model(REPOSITORY, options=replace(QUICK, revision="v9"))
    hub.token = "secret"
    with pytest.raises(omni.ModelFileError, match=r"401.*private and give a token.*HF_TOKEN"):
        download_model(REPOSITORY, options=QUICK)
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(omni.ModelFileError, match=r"401.*your token does not open it"):
        download_model(REPOSITORY, options=QUICK)
    hub.gated = True
    with pytest.raises(omni.ModelFileError, match=r"403.*access must be granted"):
        download_model(REPOSITORY, options=QUICK)


def test_tokens_are_shown_to_the_hub_alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("secret\n")
    download_model(REPOSITORY, parts=(), options=QUICK)
    assert all(headers["Authorization"] == "Bearer secret" for _, _, headers in hub.sent("/resolve/"))
    assert hub.sent("/cdn/") and not any("Authorization" in headers for _, _, headers in hub.sent("/cdn/"))
    (tmp_path / "hf" / "token").write_text("old")
    monkeypatch.setenv("HF_TOKEN", "older")
    download_model(f"{REPOSITORY}:Q8_0", parts=(), options=replace(QUICK, token="secret"))


def test_busy_hubs_are_asked_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("omni.hub.http.time.sleep", waits.append)
    hub.statuses, hub.contents, hub.retry_after = [429, 503], [429], "7"
    download_model(REPOSITORY, parts=(), options=QUICK)
    assert waits == [7, 7, 7]
    hub.statuses = [429] * 3
    with pytest.raises(omni.ModelFileError, match=r"429, too many requests; the server asks to wait 7 s"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    # Nobody waits for an hour.
    hub.statuses, hub.retry_after = [429], "3600"
    waits.clear()
    with pytest.raises(omni.ModelFileError, match=r"wait 3600 s"):
        download_model(REPOSITORY, parts=(), options=QUICK)
    assert not waits


# ---- without a network ----


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(omni.ModelFileError, match=r"\(offline\).*never downloaded"):
        download_model(REPOSITORY, options=replace(QUICK, offline=True))
    path = download_model(REPOSITORY, parts={"vision"}, options=QUICK)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download_model(REPOSITORY, parts={"vision"}, options=QUICK) == path
    with pytest.warns(UserWarning, match="no speech files"):
        download_model(REPOSITORY, parts={"speech"}, options=QUICK)
    with pytest.raises(omni.InvalidArgumentError, match=r"no quantisation Q8_0; there are Q4_K_M"):
        download_model(f"{REPOSITORY}:Q8_0", options=QUICK)
    assert not hub.requests


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = download_model(REPOSITORY, parts=(), options=QUICK)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.warns(UserWarning, match=r"refused.*downloaded before"):
        assert download_model(REPOSITORY, parts=(), options=QUICK) == path
    monkeypatch.setenv("HF_HOME", str(path.parent))
    with pytest.raises(omni.ModelFileError, match="refused"):
        download_model(REPOSITORY, parts=(), options=QUICK)


def test_disks(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=67_000_000))
        with pytest.raises(omni.ModelFileError, match=r"needs 0\.00 GB and the disk has 0\.07 GB left"):
            download_model(REPOSITORY, parts=(), options=QUICK)
    assert not hub.sent("/resolve/")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(omni.ModelFileError, match="can't be written"):
        download_model(REPOSITORY, options=replace(QUICK, cache_dir=tmp_path / "file"))


# ---- other hubs, other programs ----


def test_modelscope(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MODEL_SOURCE", "modelscope")
    hub.cuts = [500_000]
    path = download_model(REPOSITORY, parts={"speech"}, options=QUICK)
    assert path.read_bytes() == hub.files[Q4]
    assert (tmp_path / "ms") in path.parents
    assert names_in(path.parent) == sorted([Q4, *NAMES[4:8]])
    assert not hub.sent("/resolve/")
    assert download_model(REPOSITORY, parts={"speech"}, options=replace(QUICK, offline=True)) == path
    monkeypatch.setenv("OMNI_MODEL_SOURCE", "elsewhere")
    with pytest.raises(omni.InvalidArgumentError, match="elsewhere"):
        download_model(REPOSITORY, options=QUICK)


def test_the_cache_is_shared_with_the_package_of_the_hub(hub: Hub) -> None:
    program = (
        "import sys, huggingface_hub as h\n"
        "print(h.hf_hub_download(sys.argv[1], sys.argv[2], local_files_only=sys.argv[3] == 'here'))"
    )

    def theirs(name: str, how: str) -> str:
        command = [sys.executable, "-c", program, REPOSITORY, name, how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    path = download_model(REPOSITORY, parts=(), options=QUICK)
    assert theirs(Q4, "here") == str(path)
    other = theirs(Q8, "there")
    hub.requests.clear()
    assert str(download_model(f"{REPOSITORY}:Q8_0", parts=(), options=QUICK)) == other
    assert not hub.sent("/resolve/")


# ---- models ----


@pytest.fixture
def model_hub(hub: Hub, tiny_model_dir: Path) -> Hub:
    names = [path.relative_to(tiny_model_dir).as_posix() for path in tiny_model_dir.rglob("*.gguf")]
    hub.files = {name: (tiny_model_dir / name).read_bytes() for name in names}
    return hub


def test_from_pretrained(model_hub: Hub, tmp_path: Path) -> None:
    model = omni.MiniCPMO.from_pretrained(
        f"{REPOSITORY}:F32", init_vision=False, init_tts=False, n_threads=1, cache_dir=tmp_path / "c"
    )
    assert model.audio is not None and model.vision is None
    assert len(model_hub.sent("/cdn/")) == 2
    assert not np.isnan(model.llm.forward([1, 2, 3], model.llm.new_cache())[0]).any()
    with pytest.raises(omni.ModelFileError, match=r"no someone/else here, and .*404"):
        omni.MiniCPMO.from_pretrained("someone/else")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_commands(model_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("omni.chat", "-hf", REPOSITORY, "-p", "Hi", "-n", "2", "-t", "1", "--temp", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert "F32.gguf: 100%" in done.stderr and '"answer"' in done.stdout
    assert len(model_hub.sent("/cdn/")) == 1
    # A flag wins over the other option's variable, and what is there needs no network.
    monkeypatch.setenv("OMNI_MODEL", "/nowhere")
    monkeypatch.setenv("OMNI_OFFLINE", "1")
    done = run("omni.info", "-hf", f"{REPOSITORY}:F32", "--no-tensors", "--json")
    assert done.returncode == 0 and "MiniCPM-o-4_5-F32.gguf" in done.stdout, done.stderr
    done = run("omni.quantize", "-hf", REPOSITORY, str(tmp_path / "q8.gguf"), "Q8_0", "--quiet")
    assert done.returncode == 0 and (tmp_path / "q8.gguf").is_file(), done.stderr
    done = run("omni.chat", "-hf", f"{REPOSITORY}:Q2_K", "-p", "Hi")
    assert done.returncode == 2 and "no quantisation Q2_K; there are F32" in done.stderr
    done = run("omni.say", "x", "-o", str(tmp_path / "x.wav"), "-hf", REPOSITORY, "-m", str(tmp_path))
    assert done.returncode == 2 and "both name a model" in done.stderr
