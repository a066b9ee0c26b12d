"""`python -m omni.chat`: a question or dialogue; text, pictures, sound, videos in, text and speech out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni.command import run_command
from omni.errors import InvalidArgumentError, OmniError
from omni.memory import require_memory
from omni.messages import Sound, parse_messages
from omni.model_files import PARTS
from omni.options import MODEL_OPTIONS, add_options, device_of, model_of
from omni.prompts import voice_prompt

if TYPE_CHECKING:
    from omni.generation import Generation
    from omni.messages import Part
    from omni.minicpmo import MiniCPMO
    from omni.model_files import ModelFiles

_HELP = """\
/image FILE  /audio FILE  /video FILE   add a picture, sound or video (path or URL) to the next message
/clear   forget the dialogue      /help   this      /exit   leave (or Ctrl-D); Ctrl-C stops an answer
"""
_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type", "weight_format",
    "n_predict", "temp", "top_k", "top_p", "repeat_penalty", "seed",
    "prompt", "system_prompt", "image", "audio", "video", "max_slices", "stack_frames", "think",
    "speak", "ref_audio", "flow_steps",
    "json", "verbose",
)  # fmt: skip
_ITEM_TYPES = {"image": "image_url", "audio": "audio_url", "video": "video_url"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.chat",
        description="Ask the model. With -p one question, without it a dialogue; "
        "several lines on standard input are one question.",
        allow_abbrev=False,
    )
    add_options(parser, _OPTIONS)
    return parser


class Dialogue:
    """What has been said, and how to go on."""

    def __init__(self, model: MiniCPMO, args: argparse.Namespace) -> None:
        self._model = model
        self._args = args
        self._n_spoken = 0
        self._voice: list[Part] = []
        if args.speak:
            model.init_tts(n_timesteps=args.flow_steps)
        if args.ref_audio:
            from omni.audio_io import load_audio

            model.init_audio()
            model.require_speaker().voice_of(args.ref_audio)
            self._voice = [Sound(load_audio(args.ref_audio))]
        self.clear()

    def clear(self) -> None:
        """Forgets everything but the system prompt."""
        self._media: list[Part] = []  # for the next question
        self._has_video = False
        self._messages: list[dict[str, Any]] = []
        if self._voice:
            self._messages.append(voice_prompt(self._voice[0], persona=self._args.system_prompt))
        elif self._args.system_prompt:
            self._messages.append({"role": "system", "content": self._args.system_prompt})

    def speech_path(self) -> str | None:
        """Where the next answer is spoken to."""
        if not self._args.speak or not self._n_spoken:
            return self._args.speak or None
        path = Path(self._args.speak)
        return str(path.with_stem(f"{path.stem}-{self._n_spoken + 1}"))

    def attach(self, kind: str, address: str) -> None:
        """Reads a file for the next question. Loads the encoders that it needs."""
        options: dict[str, Any] = {"url": address}
        if kind == "video":
            options["stack_frames"] = self._args.stack_frames
        item = {"type": _ITEM_TYPES[kind], _ITEM_TYPES[kind]: options}
        [message] = parse_messages([{"role": "user", "content": [item]}])
        if message.pictures():
            self._model.init_vision()
        if message.sounds():
            self._model.init_audio()
        self._media += message.parts
        self._has_video |= kind == "video"

    def ask(self, question: str, write: Callable[[str], None]) -> tuple[str, Generation]:
        """Answers; `write` gets the answer piece by piece. What was interrupted stays in the dialogue."""
        content = [*self._media, *([question] if question else [])]
        if not content:
            raise InvalidArgumentError("the question is empty")
        message = {"role": "user", "content": content}
        args = self._args
        stream = self._model.chat(
            msgs=[*self._messages, message],
            stream=True,
            cache_prompt=True,
            max_new_tokens=args.n_predict,
            max_inp_length=args.ctx_size,
            do_sample=args.temp > 0,
            temperature=args.temp,
            top_k=args.top_k,
            top_p=args.top_p,
            repetition_penalty=args.repeat_penalty,
            seed=args.seed,
            enable_thinking=args.think,
            max_slice_nums=args.max_slices or (1 if self._has_video else None),
            use_image_id=False if self._has_video else None,
            generate_audio=bool(args.speak),
            output_audio_path=self.speech_path(),
            tts_ref_audio=args.ref_audio,
        )
        self._media = []
        answer = ""
        try:
            for piece in stream:
                answer += piece
                write(piece)
        finally:
            self._messages += [message, {"role": "assistant", "content": answer}]
            self._n_spoken += stream.result.speech_tokens > 0
        return answer, stream.result


def run(args: argparse.Namespace) -> None:
    """Loads the model and answers."""
    if args.ref_audio and not args.speak:
        raise InvalidArgumentError("--ref-audio is the voice to --speak with: give that file, too")
    dialogue = Dialogue(load_model(args, _parts(args)), args)
    for kind in _ITEM_TYPES:
        for address in getattr(args, kind) or []:
            dialogue.attach(kind, address)
    if args.prompt is not None:
        _ask(dialogue, args.prompt, args)
    elif sys.stdin.isatty():
        _converse(dialogue, args)
    else:
        _ask(dialogue, sys.stdin.read().rstrip("\n"), args)


def _parts(args: argparse.Namespace) -> set[str]:
    """What the model needs beside the language model. In a dialogue, /image and /audio may still come."""
    open_end = args.prompt is None and sys.stdin.isatty()
    wanted = {
        "vision": open_end or args.image or args.video,
        "audio": open_end or args.audio or args.video or args.ref_audio,
        "speech": args.speak,
    }
    return {part for part, needed in wanted.items() if needed}


def load_model(args: argparse.Namespace, parts: Collection[str] = PARTS) -> MiniCPMO:
    """Opens the language model and says on stderr what runs where. `parts` will be used, too."""
    files = model_of(args, parts)
    start = time.perf_counter()
    model = open_model(args, files, parts)
    print(f"{model.describe()}, loaded in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return model


def open_model(args: argparse.Namespace, files: ModelFiles, parts: Collection[str] = PARTS) -> MiniCPMO:
    """Opens the language model as the options say. There should be memory for `parts`, too."""
    from omni.minicpmo import MiniCPMO

    device = device_of(args)
    if device is None:
        require_memory(files, args.ctx_size, args.kv_type, parts)
    return MiniCPMO.from_pretrained(
        files.llm,
        init_vision=False,
        init_audio=False,
        init_tts=False,
        n_ctx=args.ctx_size,
        n_threads=args.threads,
        n_batch=args.batch_size,
        kv_type=args.kv_type,
        weight_format=args.weight_format,
        device=device,
    )


def _ask(dialogue: Dialogue, question: str, args: argparse.Namespace) -> None:
    write = _ignore if args.json else _write
    path = dialogue.speech_path()
    answer, result = dialogue.ask(question, write)
    if args.json:
        audio = {"audio": path} if result.speech_tokens else {}
        print(json.dumps({"answer": answer, **_report(result), **audio}, ensure_ascii=False), flush=True)
    else:
        _write("\n")
    if args.verbose:
        print(_timings(result), file=sys.stderr)


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _ignore(piece: str) -> None:
    pass


def _report(result: Generation) -> dict[str, Any]:
    values = asdict(result)
    ids = values.pop("ids")
    return {"tokens": len(ids), **values}


def _timings(result: Generation) -> str:
    computed = result.prompt_tokens - result.reused_tokens
    return (
        f"prompt: {computed} tokens in {result.prefill_seconds:.2f} s "
        f"({computed / max(result.prefill_seconds, 1e-9):.1f}/s), {result.reused_tokens} reused; "
        f"answer: {len(result.ids)} tokens in {result.decode_seconds:.2f} s "
        f"({len(result.ids) / max(result.decode_seconds, 1e-9):.1f}/s)"
    )


def _converse(dialogue: Dialogue, args: argparse.Namespace) -> None:
    """Reads questions and commands until the end of input."""
    with contextlib.suppress(ImportError):  # Windows has its own line editing
        import readline  # noqa: F401
    print(_HELP, end="", file=sys.stderr)
    while True:
        try:
            line = _read_line()
        except EOFError:
            print(file=sys.stderr)
            return
        command, _, rest = line.partition(" ")
        try:
            if command in ("/exit", "/quit"):
                return
            if command == "/clear":
                dialogue.clear()
            elif command[1:] in _ITEM_TYPES and command.startswith("/"):
                dialogue.attach(command[1:], rest.strip())
            elif command.startswith("/"):
                print(_HELP, end="", file=sys.stderr)
            elif line:
                _ask(dialogue, line, args)
        except OmniError as error:
            print(f"{error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(stopped)", file=sys.stderr)


def _read_line() -> str:
    if sys.stdout.isatty():
        return input("> ").strip()
    # input() writes its prompt to stdout, where only answers belong.
    print("> ", end="", file=sys.stderr, flush=True)
    return input().strip()


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
