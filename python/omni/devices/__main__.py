"""`python -m omni.devices`: the sound devices of this machine."""

from __future__ import annotations

import argparse
import json
import sys

from omni.command import run_command
from omni.devices import list_audio_devices
from omni.options import add_options


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.devices",
        description="List the sound devices: number, name, system, channels, native rate.",
        allow_abbrev=False,
    )
    add_options(parser, ("json", "verbose"))
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the list."""
    devices = list_audio_devices()
    for device in devices:
        print(json.dumps(device.as_dict()) if args.json else device)
    if not devices:
        print("there are no sound devices", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
