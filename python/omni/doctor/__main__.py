"""`python -m omni.doctor`: can this machine hold a live conversation, and how well?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from omni.bench.machine import Machine
from omni.command import FAILED, run_command
from omni.devices import AudioDevice, list_audio_devices
from omni.doctor import machine as facts
from omni.doctor.estimate import STEPS, Estimate, Settings, estimate
from omni.doctor.verdict import Needs, Verdict, judge, seconds
from omni.errors import OmniError
from omni.memory import available_memory
from omni.options import add_options, device_of

_OPTIONS = (
    "llm", "threads", "device", "n_gpu_layers", "kv_type", "weight_format", "measure", "echo",
    "input_device", "output_device", "json", "verbose",
)  # fmt: skip
_GB = 1e9

Say: TypeAlias = Callable[[str], None]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.doctor",
        description="Say what this machine can do with MiniCPM-o 4.5 before anything is downloaded: parts of "
        "the networks run with random weights, about half a minute. Exits with 0 if full duplex works, with "
        "1 if it does not.",
        allow_abbrev=False,
    )
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Look, measure, and say what works."""
    out = sys.stderr if args.json else sys.stdout
    report: dict[str, Any] = {}

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    needs = Needs.of(args.llm)
    memory = available_memory()
    report["machine"], report["memory"], report["disk"] = _machine(args, needs, memory, say)
    report["audio"] = _audio(args, say)
    verdict: Verdict | None = None
    if args.measure:
        load = facts.load()
        busy = load is not None and load > 0.5 * (os.cpu_count() or 1)
        if busy:
            say(f"this machine is busy (load {load:.1f}): times are longer than they need be")
        settings = Settings(args.llm, args.threads, device_of(args), args.kv_type, args.weight_format)
        times = estimate(settings, lambda text: print(text, file=sys.stderr, flush=True))
        _say_times(times, args.llm, say)
        verdict = judge(times, needs, memory if settings.device is None else None)
        say(f"\n{verdict.text}")
        if busy and not verdict.full_duplex:
            say("It was busy with other programs meanwhile: ask again when it is idle.")
        report |= {"busy": busy, "times": times.as_dict(), "verdict": verdict.as_dict()}
    if args.json:
        print(json.dumps(report))
    if verdict is not None and not verdict.full_duplex:
        raise SystemExit(FAILED)


def _machine(
    args: argparse.Namespace, needs: Needs, memory: int | None, say: Say
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    machine = Machine.measure(args.threads)
    devices = facts.compute_devices()
    folder = facts.download_folder()
    free = facts.free_disk(folder)
    say(str(machine))
    say(f"instructions: {', '.join(machine.features)}")
    for device in devices:
        say(f"computes on {device['name']} ({device['kind']}): {device['description']}")
    if all(device["kind"] == "cpu" for device in devices):
        say("no graphics processor in this build; the README says how to build for one")
    say(f"memory: {_gigabytes(memory)} can be used, {args.llm} needs about {_gigabytes(needs.memory)}")
    short = "" if free is None or free > needs.download else ", which is too little"
    say(f"disk: {_gigabytes(free)} free for {folder}, a download of {_gigabytes(needs.download)}{short}")
    return (
        machine.as_dict() | {"devices": devices},
        {"available": memory, "needed": needs.memory},
        {"folder": str(folder), "free": free, "needed": needs.download},
    )


def _audio(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Sound devices, and the echo between them if that is wanted."""
    try:
        devices: list[AudioDevice] = list_audio_devices()
    except OmniError as error:
        if args.echo:
            raise
        say(f"sound devices: none, {error}")
        return {"devices": [], "error": str(error), "echo": None}
    say("sound devices:" if devices else "sound devices: none")
    for device in devices:
        say(f"  {device}")
    if not args.echo:
        return {"devices": [device.as_dict() for device in devices], "error": None, "echo": None}
    from omni.live.echo import measure_echo

    say("measuring the echo: you hear a rising tone and noise, five seconds")
    echo = measure_echo(args.input_device, args.output_device)
    say(f"echo: {echo}")
    return {"devices": [device.as_dict() for device in devices], "error": None, "echo": echo.as_dict()}


def _say_times(times: Estimate, llm: str, say: Say) -> None:
    rows = [
        ("listening", times.listening()),
        ("listening, with a picture", times.listening(picture=True)),
        ("answering as text", times.speaking(steps=None)),
    ]
    for steps in STEPS:
        rows.append((f"speaking, {steps} flow steps", times.speaking(steps=steps)))
        rows.append((f"speaking, {steps} flow steps, picture", times.speaking(steps=steps, picture=True)))
    say(f"\none second of a session with {llm}, stages one after the other, extrapolated from a few layers:")
    for what, ms in rows:
        say(f"  {what:<34} {seconds(ms)}")


def _gigabytes(number: int | None) -> str:
    return "unknown" if number is None else f"{number / _GB:.1f} GB"


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
