"""The table of command-line options: flags, environment twins, help texts and documentation come from it.

A command names the options it takes; `add_options` turns them into flags. Every option can also be set by an
environment variable (`OMNI_` and the long flag in capitals); a flag wins over the variable, the variable over
the default. `python -m omni.options` prints the table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omni._ext import list_devices
from omni.errors import InvalidArgumentError
from omni.model_files import PARTS, ModelFiles, find_model_files

__all__ = [
    "MODEL_OPTIONS",
    "OPTIONS",
    "Option",
    "adapted",
    "add_options",
    "as_markdown",
    "device_of",
    "model_of",
]

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Option:
    """One option: its flags, what its value may be, and what it is for."""

    flags: tuple[str, ...]
    help: str
    group: str
    parse: Callable[[str], Any] | None = str  # None: a switch without a value
    metavar: str | None = None
    default: Any = None
    choices: tuple[str, ...] | None = None
    repeat: bool = False  # may be given several times; the environment gives one value

    @property
    def name(self) -> str:
        """Key in the table and attribute of the parsed arguments."""
        return self.flags[-1].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"OMNI_{self.name.upper()}"

    def read(self, text: str) -> Any:
        """The value of `text`. Raises ValueError with the reason."""
        if self.parse is None:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError("must be 1 or 0")
            return text.lower() in _TRUE
        try:
            value = self.parse(text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from error
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return [value] if self.repeat else value


def _number(kind: type, low: float, high: float | None = None) -> Callable[[str], Any]:
    """A parser of numbers from `low` to `high`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (value >= low and (high is None or value <= high)):
            span = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"must be {span}, not {text}")
        return value

    return parse


def _layers(text: str) -> str:
    """Which device -ngl means; layers are not split between devices."""
    if text in ("auto", "all") or (text.isdecimal() and not 0 < int(text) < 36):
        return text if text in ("auto", "0") else "all"
    raise argparse.ArgumentTypeError(
        f"must be 0, all or auto, not {text!r}: a model runs on one device as a whole"
    )


_MODEL, _SAMPLING, _INPUT, _BENCH, _OUTPUT = "model", "sampling", "input", "measuring", "output"
_SPEECH, _LIVE, _DEVICES = "speech", "conversation", "sound devices"

_TABLE = (
    Option(
        ("-m", "--model"), "model directory, or the language model's GGUF file in it", _MODEL, str, "PATH"
    ),
    Option(("--quant",), "language model to take if there are several, such as Q4_K_M", _MODEL, str, "TYPE"),
    Option(
        ("-hf", "--hf-repo"),
        "repository of a hub to download from",
        _MODEL,
        str,
        "OWNER/NAME[:TYPE]",
    ),
    Option(("-hff", "--hf-file"), "language model file in it, if TYPE does not say", _MODEL, str, "FILE"),
    Option(("--hf-token",), "token for private repositories (unset: HF_TOKEN)", _MODEL, str, "TOKEN"),
    Option(
        ("-ms", "--model-source"),
        "the hub",
        _MODEL,
        default="huggingface",
        choices=("huggingface", "modelscope"),
    ),
    Option(("--offline",), "connect to no hub: use what was downloaded", _MODEL, None, default=False),
    Option(("-t", "--threads"), "threads on the processor (unset: one a core)", _MODEL, _number(int, 1, 512)),
    Option(("-c", "--ctx-size"), "positions of context", _MODEL, _number(int, 16), default=8192),
    Option(("-b", "--batch-size"), "rows computed at once", _MODEL, _number(int, 1, 65536), default=512),
    Option(("-dev", "--device"), "device to compute on: a name, 'gpu' or 'cpu'", _MODEL, str, "NAME"),
    Option(("-ngl", "--n-gpu-layers"), "0: processor, all: first GPU, auto: GPU if any", _MODEL, _layers),
    Option(
        ("-ctk", "--kv-type"),
        "how keys and values are kept",
        _MODEL,
        default="f16",
        choices=("f32", "f16", "q8_0"),
    ),
    Option(
        ("--weight-format",),
        "how F16 weights are held beside the language model (auto: BF16 where that is fast)",
        _MODEL,
        default="auto",
        choices=("auto", "stored", "bf16", "q8_0"),
    ),
    Option(
        ("-n", "--n-predict"),
        "tokens to generate at most",
        _SAMPLING,
        _number(int, 1),
        default=4096,
    ),
    Option(
        ("--temp",), "temperature; 0 takes the best token", _SAMPLING, _number(float, 0, 100), default=0.7
    ),
    Option(("--top-k",), "choose among the k best tokens; 0: all", _SAMPLING, _number(int, 0), default=100),
    Option(
        ("--top-p",), "and of those among this much probability", _SAMPLING, _number(float, 0, 1), default=0.8
    ),
    Option(
        ("--repeat-penalty",),
        "lower tokens that the answer already has",
        _SAMPLING,
        _number(float, 0.01, 100),
        default=1.02,
    ),
    Option(("-s", "--seed"), "seed of the random choices", _SAMPLING, _number(int, 0, 2**64 - 1)),
    Option(("-p", "--prompt"), "question; without it a dialogue starts", _INPUT, str, "TEXT"),
    Option(("-sys", "--system-prompt"), "system prompt", _INPUT, str, "TEXT"),
    Option(("--image",), "picture: path or URL", _INPUT, str, "FILE", repeat=True),
    Option(("--audio",), "sound: path or URL", _INPUT, str, "FILE", repeat=True),
    Option(("--video",), "video: path or URL", _INPUT, str, "FILE", repeat=True),
    Option(
        ("--max-slices",),
        "slices of a large picture at most (unset: 9, with a video 1)",
        _INPUT,
        _number(int, 1, 256),
    ),
    Option(
        ("--stack-frames",),
        "pictures a second of a video, all but one composed into one",
        _INPUT,
        _number(int, 1, 10),
        default=1,
    ),
    Option(("--think",), "let the model reason first", _INPUT, None, default=False),
    Option(("--speak",), "speak answers to this WAV file, later ones to FILE-2, ...", _SPEECH, str, "FILE"),
    Option(("--ref-audio",), "recording of the voice to speak with, 5 to 15 s", _SPEECH, str, "FILE"),
    Option(("-o", "--output"), "WAV file to write, 24 kHz", _SPEECH, str, "FILE"),
    Option(("--mimic",), "recording to repeat, instead of a text", _SPEECH, str, "FILE"),
    Option(
        ("--flow-steps",),
        "steps of the sound's flow; 5 halve the work (unset: 10)",
        _SPEECH,
        _number(int, 1, 100),
    ),
    Option(("--tts",), "speak; --no-tts: answers are text", _SPEECH, None, default=True),
    Option(("--voice",), "saved voice to speak with, instead of a recording", _SPEECH, str, "FILE"),
    Option(("--input",), "sound file as the microphone", _LIVE, str, "FILE"),
    Option(("--fast",), "read a file as fast as it goes, not at its own pace", _LIVE, None, default=False),
    Option(
        ("--preset",), "what the model is to be: a name of --list-presets, or a YAML file", _LIVE, str, "NAME"
    ),
    Option(("--list-presets",), "list the presets and leave", _LIVE, None, default=False),
    Option(
        ("--force-listen",),
        "seconds at the beginning in which the model only listens (unset: 3 with a microphone, else 0)",
        _LIVE,
        _number(int, 0, 3600),
    ),
    Option(("--max-speak",), "text tokens of a second (unset: 20)", _LIVE, _number(int, 1, 1000)),
    Option(
        ("--window",),
        "what makes room when the context is full: drop the oldest seconds (basic), keep their text "
        "(context), or end (off)",
        _LIVE,
        default="basic",
        choices=("basic", "context", "off"),
    ),
    Option(("--window-high",), "basic: rows of context that start it (unset: 8000)", _LIVE, _number(int, 1)),
    Option(("--window-low",), "basic: rows that it leaves (unset: 6000)", _LIVE, _number(int, 1)),
    Option(("--window-units",), "context: seconds that it leaves (unset: 24)", _LIVE, _number(int, 1)),
    Option(("--warmup",), "run once in silence before the microphone opens", _LIVE, None, default=True),
    Option(("--record",), "directory to record the conversation to", _LIVE, str, "DIR"),
    Option(("--record-video",), "record an MP4 with subtitles, too", _LIVE, None, default=False),
    Option(("--list-audio-devices",), "list the sound devices and leave", _DEVICES, None, default=False),
    Option(("--camera",), "let the model see: number of a camera, or a path or URL", _DEVICES, str, "CAMERA"),
    Option(("--screen",), "let the model see a monitor: 1, 2, ...; 0: all", _DEVICES, _number(int, 0), "N"),
    Option(
        ("--aec",),
        "echo: on: WebRTC's canceller, gate: mute the microphone while it speaks, off: headphones",
        _DEVICES,
        default="auto",
        choices=("auto", "on", "gate", "off"),
    ),
    Option(
        ("--synthetic",),
        "measure with random weights of this model's sizes, without a file",
        _BENCH,
        choices=("minicpm-o-4.5",),
    ),
    Option(
        ("--llm",),
        "type of the random language model's weights (default Q4_K_M)",
        _BENCH,
        str,
        "TYPE",
        default="Q4_K_M",
    ),
    Option(
        ("--layers",),
        "layers of each random network at most (default: all)",
        _BENCH,
        _number(int, 1, 36),
        default=36,
    ),
    Option(("--repeats",), "runs of each row (default 5)", _BENCH, _number(int, 1, 1000), default=5),
    Option(("--seconds",), "and at most this long (default 20)", _BENCH, _number(float, 0.01), default=20.0),
    Option(("--past",), "positions of context before each run", _BENCH, _number(int, 0), default=0),
    Option(("--measure",), "time the networks (default)", _BENCH, None, default=True),
    Option(("--echo",), "play a sound and measure how it comes back", _BENCH, None, default=False),
    Option(("-i", "--input-device"), "microphone: number or part of the name", _DEVICES, str, "NAME"),
    Option(("--output-device",), "loudspeaker: number or part of the name", _DEVICES, str, "NAME"),
    Option(("--json",), "results on stdout as JSON, one object a line", _OUTPUT, None, default=False),
    Option(("--plain",), "lines of text instead of a picture on the terminal", _OUTPUT, None, default=False),
    Option(("-v", "--verbose"), "say more; errors with their traceback", _OUTPUT, None, default=False),
)

OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}

# What names a model; `model_of()` reads them.
MODEL_OPTIONS = ("model", "quant", "hf_repo", "hf_file", "hf_token", "model_source", "offline")


def add_options(
    parser: argparse.ArgumentParser, names: Iterable[str | Option], environ: Mapping[str, str] | None = None
) -> None:
    """Adds options of the table to a parser, with values of the environment as defaults.

    `names`: in the table, or options of it that a command has changed with `adapted()`. Exits as a usage
    error does if a variable's value is unusable.
    """
    environ = os.environ if environ is None else environ
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        option = OPTIONS[name] if isinstance(name, str) else name
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        default = option.default
        if option.variable in environ:
            try:
                default = option.read(environ[option.variable])
            except ValueError as error:
                parser.error(f"environment variable {option.variable}: {error}")
        _add(groups[option.group], option, default)


def adapted(name: str, **changes: Any) -> Option:
    """An option of the table with another meaning, default or short flag in one command."""
    option = replace(OPTIONS[name], **changes)
    assert option.name == name  # it stays the same variable
    return option


def _add(group: argparse._ArgumentGroup, option: Option, default: Any) -> None:
    common: dict[str, Any] = {
        "dest": option.name,
        "default": default,
        "help": f"{option.help} [{option.variable}]",
    }
    if option.parse is None:
        group.add_argument(*option.flags, action=argparse.BooleanOptionalAction, **common)
        return
    common |= {"type": option.parse, "choices": option.choices}
    if option.metavar or not option.choices:
        common["metavar"] = option.metavar or "N"
    if option.repeat:
        common["action"] = _Append
    group.add_argument(*option.flags, **common)


class _Append(argparse.Action):
    """Collects values; the first flag on the command line replaces what the environment gave."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [values] if given is self.default else [*given, values])


def device_of(args: argparse.Namespace) -> str | None:
    """The device that --device and --n-gpu-layers ask for; None: the processor."""
    if args.device is not None and args.n_gpu_layers is not None:
        raise InvalidArgumentError("--device and --n-gpu-layers both choose the device; give one of them")
    if args.n_gpu_layers == "auto":
        return "gpu" if any(device.kind == "gpu" for device in list_devices()) else None
    if args.n_gpu_layers is not None:
        return "gpu" if args.n_gpu_layers == "all" else None
    return None if args.device in (None, "cpu") else str(args.device)


def model_of(
    args: argparse.Namespace,
    parts: Iterable[str] = PARTS,
    environ: Mapping[str, str] | None = None,
) -> ModelFiles:
    """The files of the model that `MODEL_OPTIONS` name, downloaded with these parts if it is a hub's.

    `parts`: of `omni.model_files.PARTS`. Raises InvalidArgumentError if no model is named, or two are.
    """
    from omni.hub import HubOptions, download_model

    environ = os.environ if environ is None else environ
    # A flag wins over a variable, of the other option, too.
    flags = [name for name in ("model", "hf_repo") if getattr(args, name) != _default(name, environ)]
    named = flags or [name for name in ("model", "hf_repo") if getattr(args, name)]
    if not named:
        raise InvalidArgumentError(
            "which model? give -m with a model directory or a GGUF file, "
            "or download one: -hf openbmb/MiniCPM-o-4_5-gguf"
        )
    if len(named) > 1:
        raise InvalidArgumentError("-m and -hf both name a model; give one of them")
    if named == ["model"]:
        return find_model_files(args.model, args.quant)
    hub = HubOptions(source=args.model_source, token=args.hf_token, offline=args.offline, file=args.hf_file)
    return find_model_files(download_model(args.hf_repo, args.quant, parts, hub))


def _default(name: str, environ: Mapping[str, str]) -> Any:
    return environ.get(OPTIONS[name].variable, OPTIONS[name].default)


def as_markdown() -> str:
    """The table of all options, for the documentation."""
    lines = ["| flags | environment | default | meaning |", "|---|---|---|---|"]
    for option in _TABLE:
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        default = "" if option.default in (None, False) else str(option.default)
        lines.append(f"| {flags} | `{option.variable}` | {default} | {option.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown())
