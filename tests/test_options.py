"""The table of options: flags, environment twins, errors."""

from __future__ import annotations

import argparse

import pytest

import omni
from omni.options import OPTIONS, add_options, as_markdown, device_of


def parse(arguments: list[str], environ: dict[str, str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, OPTIONS, environ or {})
    return parser.parse_args(arguments)


def test_every_flag_and_variable_is_used_once() -> None:
    flags = [flag for option in OPTIONS.values() for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert all(option.variable == f"OMNI_{name.upper()}" for name, option in OPTIONS.items())
    assert all(option.help and option.variable in as_markdown() for option in OPTIONS.values())


def test_flag_wins_over_variable_and_variable_over_default() -> None:
    assert parse([]).ctx_size == 8192
    assert parse([], {"OMNI_CTX_SIZE": "100"}).ctx_size == 100
    assert parse(["-c", "200"], {"OMNI_CTX_SIZE": "100"}).ctx_size == 200


def test_switches() -> None:
    assert parse([]).json is False
    assert parse(["--json"]).json is True
    assert parse([], {"OMNI_JSON": "1"}).json is True
    assert parse(["--no-json"], {"OMNI_JSON": "yes"}).json is False


def test_repeated_flags() -> None:
    assert parse([]).image is None
    assert parse(["--image", "a", "--image", "b"]).image == ["a", "b"]
    assert parse([], {"OMNI_IMAGE": "c"}).image == ["c"]
    assert parse(["--image", "a"], {"OMNI_IMAGE": "c"}).image == ["a"]


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--temp", "-1"], {}, "--temp: must be 0 to 100, not -1"),
        (["--top-p", "2"], {}, "--top-p: must be 0 to 1"),
        (["--temp", "nan"], {}, "--temp: must be"),
        (["-t", "many"], {}, "'many' is not a number"),
        (["--kv-type", "q4_0"], {}, "invalid choice: 'q4_0'"),
        (["-ngl", "7"], {}, "one device as a whole"),
        ([], {"OMNI_THREADS": "0"}, "environment variable OMNI_THREADS: must be 1 to 512"),
        ([], {"OMNI_JSON": "perhaps"}, "environment variable OMNI_JSON: must be 1 or 0"),
        ([], {"OMNI_KV_TYPE": "x"}, "environment variable OMNI_KV_TYPE: must be one of f32, f16, q8_0"),
    ],
)
def test_errors(
    arguments: list[str], environ: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments, environ)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_device() -> None:
    assert device_of(parse([])) is None
    assert device_of(parse(["-ngl", "0"])) is None
    assert device_of(parse(["-dev", "cpu"])) is None
    assert device_of(parse(["-ngl", "99"])) == device_of(parse(["-ngl", "all"])) == "gpu"
    assert device_of(parse(["-dev", "CUDA1"])) == "CUDA1"
    with pytest.raises(omni.InvalidArgumentError, match="give one"):
        device_of(parse(["-dev", "gpu", "-ngl", "0"]))
