"""`python -m omni.say`: speaks a text, or repeats a recording, in the voice of a recording."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from omni.chat import load_model
from omni.command import run_command
from omni.errors import InvalidArgumentError, OmniError
from omni.options import MODEL_OPTIONS, add_options
from omni.prompts import mimic_messages, read_aloud_messages

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type", "weight_format",
    "n_predict", "seed", "mimic", "ref_audio", "output", "flow_steps", "json", "verbose",
)  # fmt: skip
_TEMPERATURE = 0.1  # as published for reading aloud


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.say",
        description="Speak a text (or what standard input holds) with the voice of a recording.",
        allow_abbrev=False,
    )
    parser.add_argument("text", nargs="?", help="what to say")
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Loads the model and speaks."""
    if not args.output:
        raise InvalidArgumentError("where to? give -o with the WAV file to write")
    messages = _messages(args)
    has_sound = any(len(message["content"]) > 1 for message in messages)
    model = load_model(args, {"speech", "audio"} if has_sound else {"speech"})
    model.init_tts(n_timesteps=args.flow_steps)
    if has_sound:
        model.init_audio()
    start = time.perf_counter()
    stream = model.chat(
        msgs=messages,
        stream=True,
        max_new_tokens=args.n_predict,
        max_inp_length=args.ctx_size,
        temperature=_TEMPERATURE,
        seed=args.seed,
        generate_audio=True,
        output_audio_path=args.output,
        tts_ref_audio=args.ref_audio,
    )
    said = "".join(stream)
    taken = time.perf_counter() - start
    if not stream.result.speech_tokens:
        raise OmniError(f"the model said nothing; {args.output} was not written")
    seconds = stream.result.speech_tokens / 25
    if args.json:
        print(json.dumps({"text": said, "audio": args.output, "seconds": seconds, "taken": taken}))
    else:
        print(f"{args.output}: {seconds:.2f} s of speech in {taken:.1f} s", file=sys.stderr)


def _messages(args: argparse.Namespace) -> list[dict[str, Any]]:
    from omni.audio_io import load_audio

    if args.mimic is not None:
        if args.text is not None:
            raise InvalidArgumentError("say a text, or --mimic a recording: not both")
        return mimic_messages(load_audio(args.mimic))
    text = (sys.stdin.read() if args.text is None else args.text).strip()
    if not text:
        raise InvalidArgumentError("there is nothing to say: the text is empty")
    return read_aloud_messages(text, None if args.ref_audio is None else load_audio(args.ref_audio))


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
