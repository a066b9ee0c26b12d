"""`python -m omni.live`: talk with the model. It listens, sees and speaks at the same time."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omni.audio_io import MODEL_RATE
from omni.chat import open_model
from omni.command import run_command
from omni.devices import Camera, Microphone, Screen, Speaker, list_audio_devices
from omni.duplex_session import DuplexSession
from omni.errors import DeviceError, InvalidArgumentError, ModelFileError, OmniError
from omni.live.conversation import Conversation
from omni.live.echo import EchoControl
from omni.live.keyboard import Keyboard
from omni.live.outputs import (
    JsonLines,
    Loudspeaker,
    Output,
    Recording,
    SoundFile,
    VideoRecording,
    refuse_recordings,
)
from omni.live.presets import Preset, find_preset, list_presets
from omni.live.sources import (
    BLOCK,
    AudioFile,
    Paced,
    Queued,
    Samples,
    Source,
    VideoFile,
    WithPictures,
)
from omni.live.summary import Summary
from omni.live.view import KEYS, PlainView, RichView
from omni.options import MODEL_OPTIONS, adapted, add_options, model_of
from omni.voice import Voice

if TYPE_CHECKING:
    from omni.minicpmo import MiniCPMO

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
    "weight_format", "input",
    adapted("video", help="video file as microphone and camera", repeat=False),
    "fast",
    adapted("prompt", help="what the model is to be", metavar="TEXT"),
    "preset", "list_presets",
    adapted("max_slices", help="slices of a large picture at most (unset: 1)"),
    "force_listen", "max_speak", "window", "window_high", "window_low", "window_units", "warmup",
    "tts", "ref_audio", "voice",
    adapted("output", flags=("--output",), help="WAV file for the model's sound, as long as the input"),
    adapted("flow_steps", flags=("--steps", "--flow-steps")),
    "temp", "top_k", "top_p",
    adapted("repeat_penalty", default=1.05, help="lower tokens that were said already"),
    "seed",
    "input_device",
    adapted("output_device", flags=("-o", "--output-device")),
    "list_audio_devices", "camera", "screen", "aec",
    "record", "record_video",
    "plain", "json", "verbose",
)  # fmt: skip
_MICROPHONE_FORCE_LISTEN = 3
_MAX_SPEAK = 20
_WINDOW_SIZES = {
    "window_high": "basic_window_high_tokens",
    "window_low": "basic_window_low_tokens",
    "window_units": "context_max_units",
}
_EXCLUSIVE = (
    ("input", "video"),
    ("ref_audio", "voice"),
    ("camera", "screen"),
    ("video", "camera"),
    ("video", "screen"),
)
_ECHO_MODES = {"auto": "auto", "on": "aec", "gate": "gate", "off": "off"}
_COMMANDS: dict[str, Any] = {" ": "interrupt", "\n": "interrupt", "\r": "interrupt", "q": "quit", "Q": "quit"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.live",
        description="Talk with the model: microphone and loudspeaker, or files. It listens while it speaks.",
        epilog=f"Keys: {KEYS}, Ctrl-C: leave at once. With files it ends by itself: after the input, silence "
        "follows until the model has listened to two seconds of it in a row, ten at most.",
        allow_abbrev=False,
    )
    add_options(parser, _OPTIONS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(build_parser(), run, arguments)


def run(args: argparse.Namespace) -> None:
    """Does what the options say."""
    if args.list_presets:
        _print_presets(args.json)
    elif args.list_audio_devices:
        for device in list_audio_devices():
            print(json.dumps(device.as_dict(), ensure_ascii=False) if args.json else device)
    else:
        _check(args)
        with contextlib.ExitStack() as stack:
            _Program(args, stack).run()


def _print_presets(as_json: bool) -> None:
    for preset in list_presets():
        print(
            json.dumps(asdict(preset), ensure_ascii=False) if as_json else f"{preset.name:<16} {preset.title}"
        )


def _check(args: argparse.Namespace) -> None:
    """Refuses what can't go together, before anything is opened."""
    for first, second in _EXCLUSIVE:
        if getattr(args, first) is not None and getattr(args, second) is not None:
            flags = [f"--{name.replace('_', '-')}" for name in (first, second)]
            raise InvalidArgumentError(f"{' and '.join(flags)} exclude each other; give one of them")
    if args.fast and args.input is None and args.video is None:
        raise InvalidArgumentError("--fast reads a file: give --input or --video, too")
    if args.record_video and args.record is None:
        raise InvalidArgumentError("--record-video belongs to --record DIR: give the directory, too")
    if args.record is not None:
        refuse_recordings(Path(args.record))
    if args.output is not None and not args.tts:
        raise InvalidArgumentError("--output is for the model's sound, which --no-tts switches off")
    if args.output is not None and not Path(args.output).absolute().parent.is_dir():
        raise ModelFileError(f"can't write {args.output!r}: its directory is not there")


class _Program:
    """The parts of a conversation, opened in the order in which they may fail cheaply."""

    def __init__(self, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self._args, self._stack = args, stack
        self._conversation: Conversation | None = None
        self._is_file = args.input is not None or args.video is not None
        self._real_time = not args.fast

    def run(self) -> None:
        args = self._args
        preset = None if args.preset is None else find_preset(args.preset)
        voice = None if args.voice is None else Voice.load(args.voice)
        source = self._file_source()
        pictures = self._pictures()
        speaker = self._speaker()
        microphone = None if self._is_file else self._microphone(speaker)
        model = self._model(sees=pictures is not None or args.video is not None)
        self._say_first_line(model, source, microphone, speaker)
        options = self._session_options(preset, voice)
        if args.warmup and self._real_time:
            warm_up(model, options)
        if microphone is not None:
            source = microphone[1]
        assert source is not None
        if pictures is not None:
            self._stack.enter_context(pictures)
            source = WithPictures(source, pictures)
        if self._is_file and self._real_time:
            source = Paced(source)
        session = DuplexSession(model, real_time=self._real_time, **options)
        self._stack.callback(session.close)
        outputs = self._outputs(model, options, speaker, source.name)
        self._conversation = Conversation(session, source, outputs, real_time=self._real_time)
        if speaker is not None:
            self._stack.enter_context(speaker)
        if microphone is not None:
            self._stack.enter_context(microphone[0])
        with Keyboard(self._key):
            self._conversation.run()

    # ---- input ----

    def _file_source(self) -> Source | None:
        if not self._is_file:
            return None
        args = self._args
        block = BLOCK if self._real_time else MODEL_RATE
        opened = AudioFile(args.input, block) if args.input is not None else VideoFile(args.video, block)
        self._stack.callback(opened.close)
        return opened

    def _pictures(self) -> Any:
        if self._args.camera is None and self._args.screen is None:
            return None
        if self._args.camera is not None:
            return Camera(self._args.camera, on_status=self._device_status)
        return Screen(self._args.screen, on_status=self._device_status)

    def _microphone(self, speaker: Speaker | None) -> tuple[Microphone, Queued]:
        echo = EchoControl.choose(_ECHO_MODES[self._args.aec] if speaker is not None else "off")

        def process(samples: Samples, at: float) -> Samples:
            assert speaker is not None
            return echo.process(samples, speaker.reference(at, len(samples)))

        queued = Queued("microphone", None if speaker is None else process)
        microphone = Microphone(self._args.input_device, on_block=queued.put, on_status=self._device_status)
        queued.name = microphone.device.name
        if speaker is not None:
            print(f"echo control: {echo.name}; {echo.advice}", file=sys.stderr)
        return microphone, queued

    # ---- output ----

    def _speaker(self) -> Speaker | None:
        """The loudspeaker, unless there is nothing to hear or it goes to a file."""
        args = self._args
        if not args.tts or (args.output_device is None and (args.output is not None or args.fast)):
            return None
        try:
            return Speaker(args.output_device, on_status=self._device_status)
        except OmniError as error:
            if args.output_device is not None or not self._is_file:
                raise
            if args.record is None:
                raise DeviceError(f"{error}; --output FILE writes the model's sound to a file") from error
            return None  # it is recorded

    def _outputs(
        self, model: MiniCPMO, options: dict[str, Any], speaker: Speaker | None, input_name: str
    ) -> list[Output]:
        args = self._args
        about = {
            "model": model.describe(),
            "input": input_name,
            "output": args.output or (None if speaker is None else speaker.device.name),
            "prompt": options["prompt"],
            "real_time": self._real_time,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        outputs: list[Output] = [] if speaker is None else [Loudspeaker(speaker)]
        if args.output is not None:
            outputs.append(SoundFile(args.output))
        if args.record is not None:
            outputs.append(Recording(args.record, about))
            if args.record_video:
                outputs.append(VideoRecording(args.record))
        if args.json:
            lines = JsonLines(sys.stdout)
            lines.write({"type": "start", **about})
            outputs.append(lines)
        summary = Summary()
        self._stack.callback(lambda: print(summary, file=sys.stderr))
        return [*outputs, summary, self._view(input_name)]

    def _view(self, input_name: str) -> Output:
        args = self._args
        dumb = not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"
        if not (args.plain or args.json or args.verbose or dumb):
            with contextlib.suppress(ImportError):
                return RichView(f"omni.live: {input_name}", keys=sys.stdin is not None and sys.stdin.isatty())
        return PlainView(verbose=args.verbose)

    # ---- model ----

    def _model(self, *, sees: bool) -> MiniCPMO:
        args = self._args
        parts = {"audio", *(["vision"] if sees else []), *(["speech"] if args.tts else [])}
        model = open_model(args, model_of(args, parts), parts)
        model.init_audio()
        if sees:
            model.init_vision()
        if args.tts:
            model.init_tts()
        return model

    def _say_first_line(
        self,
        model: MiniCPMO,
        source: Source | None,
        microphone: tuple[Microphone, Queued] | None,
        speaker: Speaker | None,
    ) -> None:
        heard = microphone[0].device.name if microphone is not None else "" if source is None else source.name
        said = self._args.output or ("text" if speaker is None else speaker.device.name)
        print(f"{model.describe()}; from {heard} to {said}", file=sys.stderr)

    def _session_options(self, preset: Preset | None, voice: Voice | None) -> dict[str, Any]:
        """Arguments of `DuplexSession`: the command line's, else the preset's, else the defaults."""
        args = self._args

        def choose(name: str, default: Any) -> Any:
            given = getattr(args, name)
            if given is None and preset is not None:
                given = getattr(preset, name)
            return default if given is None else given

        sizes = {key: getattr(args, name) for name, key in _WINDOW_SIZES.items()}
        return {
            "prompt": choose("prompt", None),
            "ref_audio": choose("ref_audio", None) if voice is None else voice,
            "generate_audio": args.tts,
            "steps": args.flow_steps,
            "force_listen": choose("force_listen", 0 if self._is_file else _MICROPHONE_FORCE_LISTEN),
            "max_speak": choose("max_speak", _MAX_SPEAK),
            "sliding_window_mode": args.window,
            "window": {key: size for key, size in sizes.items() if size is not None},
            "temperature": args.temp or 1.0,
            "greedy": args.temp == 0,
            "top_k": args.top_k,
            "top_p": args.top_p,
            "text_repetition_penalty": args.repeat_penalty,
            "seed": args.seed,
            "max_slice_nums": args.max_slices or 1,
        }

    # ---- while it runs ----

    def _key(self, key: str) -> None:
        command = _COMMANDS.get(key)
        if command is not None and self._conversation is not None:
            self._conversation.command(command)

    def _device_status(self, status: str, message: str) -> None:
        if self._conversation is not None:
            self._conversation.notice(message)
        elif status != "ok":
            print(message, file=sys.stderr)


def warm_up(model: MiniCPMO, options: dict[str, Any]) -> None:
    """One second of silence through a session that is thrown away: graphs are built, files are read."""
    with DuplexSession(model, **{**options, "force_listen": 1}, real_time=False) as session:
        session.push_audio(np.zeros(MODEL_RATE, np.float32))
        session.end_input()
        for _ in session:
            pass
