"""The whole model behind one object, with the names, defaults and results of the published Python class."""

from __future__ import annotations

import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.arguments import TORCH_ARGUMENTS, warn_unknown
from omni.audio_encoder import AudioEncoder
from omni.duplex import DuplexParams, MiniCPMODuplex
from omni.encodings import EncodingCache
from omni.errors import InvalidArgumentError, ModelFileError, UnsupportedError
from omni.fetch import Limits
from omni.generation import (
    Generation,
    GenerationConfig,
    PromptCache,
    TextStream,
    require_room,
    row_keys,
    sample,
    search,
)
from omni.hub import HubOptions
from omni.language_model import LanguageModel
from omni.memory import context_bytes, require_memory
from omni.messages import Message, parse_messages
from omni.model_check import check_model_files
from omni.model_files import ModelFiles, quantisation, resolve_model
from omni.multimodal import Prompt, PromptOptions, build_prompt, image_rows, splice
from omni.prompts import system_prompt
from omni.simplex import SimplexSession, group_texts
from omni.speaking import Recording, Speaker, SpeechOrder, TTSSamplingParams, VoiceOptions, spoken_span
from omni.vision_encoder import VisionEncoder, WeightFormat
from omni.voice import Voice

__all__ = ["MiniCPMO"]

Variant = Literal["hub", "server"]
Quirks = Literal["fixed", "reference"]
Messages = str | Sequence[Mapping[str, Any]]

_logger = logging.getLogger("omni")
_STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
_AUDIO_CHUNK_SECONDS = 1.0
_ENCODINGS_BYTES = 128 << 20


class MiniCPMO:
    """MiniCPM-o 4.5: text, pictures and sound in, text and speech out. Made by `from_pretrained`."""

    def __init__(
        self,
        files: ModelFiles,
        *,
        variant: Variant,
        quirks: Quirks,
        n_ctx: int,
        n_batch: int,
        kv_type: Literal["f32", "f16", "q8_0"],
        n_threads: int | None,
        device: str | None,
        weight_format: WeightFormat,
    ) -> None:
        self.files = files
        self._n_ctx, self._kv_type, self._weight_format = n_ctx, kv_type, weight_format
        self._compute: dict[str, Any] = {"n_threads": n_threads, "device": device}
        self.llm = LanguageModel(files.llm, n_ctx=n_ctx, n_batch=n_batch, kv_type=kv_type, **self._compute)
        self.tokenizer = _ext.Tokenizer(files.llm)
        self.variant = variant
        self.quirks = quirks
        self.vision: VisionEncoder | None = None
        self.audio: AudioEncoder | None = None
        self._stop_ids = [self.tokenizer.required_id(token) for token in _STOP_TOKENS]
        self._tts_eos = self.tokenizer.required_id("<|tts_eos|>")
        self._encodings = EncodingCache(_ENCODINGS_BYTES)
        self._dialogue: PromptCache | None = None
        self._simplex: SimplexSession | None = None
        self._speaker: Speaker | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        init_vision: bool = True,
        init_audio: bool = True,
        init_tts: bool = True,
        variant: Variant = "hub",
        quirks: Quirks = "fixed",
        quant: str | None = None,
        n_ctx: int = 8192,
        n_threads: int | None = None,
        device: str | None = None,
        n_batch: int = 512,
        kv_type: Literal["f32", "f16", "q8_0"] = "f16",
        weight_format: WeightFormat = "auto",
        **kwargs: Any,
    ) -> MiniCPMO:
        """Opens a model directory in the layout of the official GGUF set, or downloads one from a hub.

        Parts whose files are not there are left out; using one then says which file it needs.

        Args:
            model: path of the directory, or of the language model file in one; or a repository of a hub,
                such as "openbmb/MiniCPM-o-4_5-gguf:Q4_K_M", of which what is needed is downloaded.
            init_vision, init_audio: load the encoders of pictures and sound.
            init_tts: load the speech part.
            variant: "hub", the released model package; "server", the public demo's.
            quirks: "fixed", or "reference" for the exact behaviour of the published code, faults included.
            quant: which language model, if the directory holds several ("Q4_K_M").
            n_ctx: positions of context; prompt and answer together don't exceed it.
            n_threads, device, n_batch, kv_type: as for `LanguageModel`.
            weight_format: how the encoders and the speech model hold float weights, as for `VisionEncoder`;
                "q8_0" saves nearly half of their memory.
            kwargs: token, revision, cache_dir and local_files_only for the hub; and what only PyTorch heeds.

        Raises:
            ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
        """
        if variant not in ("hub", "server"):
            raise InvalidArgumentError(f"variant must be 'hub' or 'server', not {variant!r}")
        if quirks not in ("fixed", "reference"):
            raise InvalidArgumentError(f"quirks must be 'fixed' or 'reference', not {quirks!r}")
        hub = HubOptions.taken_from(kwargs)
        warn_unknown("from_pretrained", {key: kwargs[key] for key in kwargs if key not in TORCH_ARGUMENTS})
        wanted = {"vision": init_vision, "audio": init_audio, "speech": init_tts}
        parts = [part for part in wanted if wanted[part]]
        files = resolve_model(model, quant, parts, hub)
        check_model_files(files, parts)
        if device is None:
            require_memory(files, n_ctx, kv_type, parts)
        self = cls(
            files,
            variant=variant,
            quirks=quirks,
            n_ctx=n_ctx,
            n_batch=n_batch,
            kv_type=kv_type,
            n_threads=n_threads,
            device=device,
            weight_format=weight_format,
        )
        if init_vision and files.vision is not None:
            self.init_vision()
        if init_audio and files.audio is not None:
            self.init_audio()
        if init_tts and files.tts is not None and files.token2wav is not None:
            self.init_tts()
        return self

    # ---- parts ----

    def init_vision(self) -> None:
        """Loads the picture encoder, unless it is loaded. Raises ModelFileError if its file is missing."""
        if self.vision is None:
            path = self._part("vision")
            check_model_files(self.files, ["vision"])
            self.vision = VisionEncoder(path, weight_format=self._weight_format, **self._compute)

    def init_audio(self) -> None:
        """Loads the sound encoder, unless it is loaded. Raises ModelFileError if its file is missing."""
        if self.audio is None:
            path = self._part("audio")
            check_model_files(self.files, ["audio"])
            self.audio = AudioEncoder(path, weight_format=self._weight_format, **self._compute)

    def init_tts(
        self,
        streaming: bool = True,
        model_dir: str | os.PathLike[str] | None = None,
        enable_float16: bool = False,
        n_timesteps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads the speech model and token2wav, unless they are loaded.

        Args:
            streaming, enable_float16: accepted and not used.
            model_dir: where token2wav is, if not in the model's directory.
            n_timesteps: steps of the flow (None: 10); 5 halve the work.

        Raises:
            ModelFileError, FormatError, UnsupportedError, OutOfMemoryError, DeviceError
        """
        warn_unknown("init_tts", kwargs)
        if self._speaker is None:
            kv_type: Literal["f32", "f16"] = "f32" if self._kv_type == "f32" else "f16"
            # "auto" leaves the speech model's weights in its file, as F16.
            speech: WeightFormat = "stored" if self._weight_format == "auto" else self._weight_format
            options = {"kv_type": kv_type, "speech_format": speech, **self._compute}
            self._speaker = Speaker.load(self.files, model_dir, **options)
        if n_timesteps is not None:
            self._speaker.use_steps(n_timesteps)

    def init_token2wav_cache(
        self,
        prompt_speech_16k: str | os.PathLike[str] | NDArray[np.float32] | Voice,
        *,
        n_timesteps: int | None = None,
        seed: int = 0,
        noise: NDArray[np.float32] | None = None,
        excitation: bool = True,
    ) -> None:
        """Sets the voice that answers are spoken with. Takes about as long as hearing the recording.

        Args:
            prompt_speech_16k: 5 to 15 s of speech: samples (mono, 16 kHz), a file of any rate, or a voice.
            n_timesteps: steps of the flow (None: as `init_tts` was told).
            seed, noise, excitation: as for `Token2Wav.stream()`.
        """
        speaker = self.require_speaker()
        steps = speaker.options.steps if n_timesteps is None else n_timesteps
        speaker.set_voice(prompt_speech_16k, VoiceOptions(steps, seed, noise, excitation))

    def require_speaker(self) -> Speaker:
        """What speaks. Raises if it is not loaded."""
        if self._speaker is None:
            raise InvalidArgumentError("the model was loaded without speech: call init_tts()")
        return self._speaker

    def require_audio(self) -> AudioEncoder:
        """The sound encoder. Raises if its file is missing, or it is not loaded."""
        if self.audio is None:
            self._part("audio")
            raise InvalidArgumentError("the model was loaded without the sound encoder: call init_audio()")
        return self.audio

    def require_vision(self) -> VisionEncoder:
        """The picture encoder. Raises if its file is missing, or it is not loaded."""
        if self.vision is None:
            self._part("vision")
            raise InvalidArgumentError("the model was loaded without the picture encoder: call init_vision()")
        return self.vision

    def _part(self, name: Literal["vision", "audio"]) -> Path:
        path: Path | None = getattr(self.files, name)
        if path is None:
            wanted = self.files.directory / name / f"*-{name}-*.gguf"
            raise ModelFileError(f"this needs the {name} encoder, and there is no {wanted}")
        return path

    def eval(self) -> MiniCPMO:
        """Does nothing: the model is always ready for inference."""
        _logger.info("eval() does nothing: the model is always ready for inference")
        return self

    def cuda(self, *_: object) -> MiniCPMO:
        """Does nothing: the device is chosen by from_pretrained(device=)."""
        _logger.info("cuda() does nothing: choose the device with from_pretrained(device=)")
        return self

    def to(self, *_: object, **__: object) -> MiniCPMO:
        """Does nothing: device and types are chosen by from_pretrained."""
        _logger.info("to() does nothing: choose the device with from_pretrained(device=)")
        return self

    # ---- chat ----

    def get_sys_prompt(
        self,
        ref_audio: str | os.PathLike[str] | NDArray[np.float32] | None = None,
        mode: str = "default",
        language: str = "en",
        ref_audio_max_ms: int | None = None,
    ) -> dict[str, Any]:
        """The system message of a mode: omni, audio_assistant, audio_roleplay, voice_cloning or default.

        Args:
            ref_audio: the voice to speak with: a file, or samples (mono, 16 kHz).
            mode: what the model is to be; an unknown one gives the default prompt.
            language: "zh" or "en".
            ref_audio_max_ms: take only so much of the file.
        """
        if isinstance(ref_audio, (str, os.PathLike)):
            from omni.audio_io import load_audio

            seconds = None if ref_audio_max_ms is None else ref_audio_max_ms / 1000
            ref_audio = load_audio(ref_audio, max_seconds=seconds)
        return system_prompt(mode, language, ref_audio=ref_audio, variant=self.variant)

    def chat(
        self,
        image: Any = None,
        msgs: Messages | Sequence[Sequence[Mapping[str, Any]]] | None = None,
        tokenizer: Any = None,
        processor: Any = None,
        vision_hidden_states: NDArray[np.float32] | None = None,
        max_new_tokens: int = 4096,
        min_new_tokens: int = 0,
        do_sample: bool = True,
        max_inp_length: int = 8192,
        stream: bool = False,
        stream_input: bool = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        enable_thinking: bool = False,
        use_tts_template: bool = False,
        generate_audio: bool = False,
        output_audio_path: str | None = None,
        output_tts_inputs_embeds_path: str | None = None,
        omni_mode: bool = False,
        teacher_forcing: bool = False,
        return_prompt: bool = False,
        tts_proj_layer: int = -1,
        tts_sampling_params: Any = None,
        merge_audio_from_same_content: bool = True,
        *,
        num_beams: int | None = None,
        temperature: float = 0.7,
        top_p: float = 0.8,
        top_k: int = 100,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        cache_prompt: bool = False,
        limits: Limits | None = None,
        tts_ref_audio: Recording | Voice | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answers a dialogue.

        Args:
            image: a picture to put before the first message's text.
            msgs: the dialogue (see `omni.messages.parse_messages`), a list of dialogues, or JSON text.
            tokenizer, processor: accepted and not used; the model brings its own.
            vision_hidden_states: embeddings [k, 64, D] to use for the pictures instead of encoding them.
            max_new_tokens, min_new_tokens: length of the answer in tokens.
            do_sample: draw tokens; otherwise take the best.
            max_inp_length: tokens of the prompt at most; a longer one is refused.
            stream: return an iterator over the text.
            stream_input: write clips in groups of one second.
            max_slice_nums: slices of a large picture at most (None: 9).
            use_image_id: number the pictures (None: yes).
            enable_thinking: let the model reason first; the reasoning is part of the answer.
            use_tts_template: prepare a spoken answer; sound in the dialogue does so, too.
            generate_audio: speak the answer, too (and use_tts_template). With `stream`, after its text.
            output_audio_path: the WAV file to write, 24 kHz; needed for `generate_audio`.
            output_tts_inputs_embeds_path: a NumPy file to write with what the speech model was given.
            teacher_forcing: don't answer: speak what stands behind <|tts_bos|> in the last message.
            tts_proj_layer: -1, the language model's last layer.
            tts_sampling_params: how speech is drawn, see `omni.speaking.TTSSamplingParams`.
            omni_mode: items of a message follow one another without line breaks, for interleaved video.
            return_prompt: also return the prompt's text.
            merge_audio_from_same_content: encode the clips of one message as one.
            num_beams: None: 3 as published, 1 with `stream`. 1 is three times as fast.
            temperature, top_p, top_k, repetition_penalty: of the choice of tokens (penalty None: 1.02, or
                1.2 for a beam search with do_sample=False).
            seed: makes drawing reproducible.
            cache_prompt: keep the context, and compute of the next such prompt only what differs.
            limits: what addresses in the messages may be read.
            tts_ref_audio: whose voice to speak with (None: the first clip of the dialogue, else the voice of
                `init_token2wav_cache()`, else the model's own if it has one).

        Returns:
            The answer's text, a list of them for a list of dialogues, or a `TextStream`; with `return_prompt`
            a pair of that and the prompt.
        """
        warn_unknown("chat", kwargs)
        if tts_proj_layer != -1:
            raise UnsupportedError(
                f"tts_proj_layer must be -1, not {tts_proj_layer}: other layers are not kept"
            )
        order = None
        if generate_audio:
            self.require_speaker()
            if output_audio_path is None:
                raise InvalidArgumentError("generate_audio needs output_audio_path, the WAV file to write")
            if not Path(output_audio_path).resolve().parent.is_dir():
                raise ModelFileError(f"can't write {output_audio_path!r}: there is no such directory")
            order = SpeechOrder(
                Path(output_audio_path),
                TTSSamplingParams.of(tts_sampling_params),
                seed,
                tts_ref_audio,
                None if output_tts_inputs_embeds_path is None else Path(output_tts_inputs_embeds_path),
            )
            use_tts_template = True
        if msgs is None:
            raise InvalidArgumentError("chat needs msgs, a list of messages")
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            do_sample=do_sample,
            num_beams=num_beams or (1 if stream else 3),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        if stream and config.num_beams > 1:
            raise InvalidArgumentError("a beam search can't be streamed: stream=True needs num_beams=1")
        options = PromptOptions(
            max_slice_nums=max_slice_nums,
            use_image_id=use_image_id,
            enable_thinking=enable_thinking,
            use_tts_template=use_tts_template,
            omni_mode=omni_mode,
            stream_input=stream_input,
            max_inp_length=max_inp_length,
            generation_prompt=not teacher_forcing,
            image_rows=image_rows(self.vision),
        )
        if _is_batch(msgs):
            if stream or generate_audio:
                raise InvalidArgumentError("only one dialogue can be streamed or spoken")
            dialogues: list[Any] = list(msgs)
            pictures = image if isinstance(image, list) else [image] * len(msgs)
        else:
            dialogues, pictures = [msgs], [image]
        if len(pictures) != len(dialogues):
            raise InvalidArgumentError(f"{len(pictures)} images for {len(dialogues)} dialogues")

        answers, prompts = [], []
        for dialogue, picture in zip(dialogues, pictures, strict=True):
            messages = self._parse(dialogue, picture, limits)
            prompt = build_prompt(self.tokenizer, messages, options)
            if order is not None:
                clip = prompt.clips[0][0] if prompt.clips else None
                order = order.with_voice(self.require_speaker(), clip)
            answer = self._answer(
                prompt,
                None if teacher_forcing else config,
                vision_hidden_states,
                merge_audio_from_same_content,
                cache_prompt,
                order,
            )
            answers.append(answer if stream else "".join(answer))
            prompts.append(prompt.text)
        if _is_batch(msgs):
            return (answers, prompts) if return_prompt else answers
        return (answers[0], prompts[0]) if return_prompt else answers[0]

    def _parse(self, msgs: Any, image: Any, limits: Limits | None) -> list[Message]:
        messages = parse_messages(msgs, limits=limits, assistant_first=self.quirks == "fixed")
        if image is None:
            return messages
        if len(messages[0].parts) != 1 or not isinstance(messages[0].parts[0], str):
            warnings.warn("image= is ignored: the first message brings its own content", stacklevel=3)
            return messages
        first = parse_messages(
            [{"role": messages[0].role, "content": [image, messages[0].parts[0]]}], limits=limits
        )
        return [first[0], *messages[1:]]

    def _answer(
        self,
        prompt: Prompt,
        config: GenerationConfig | None,
        vision_rows: NDArray[np.float32] | None,
        merge_clips: bool,
        keep: bool,
        order: SpeechOrder | None = None,
    ) -> TextStream:
        """Computes the prompt at once, the answer as it is read. Without a `config` there is no answer."""
        require_room(len(prompt.ids), self._n_ctx)
        start = time.perf_counter()
        embeds = self.embed_prompt(prompt, vision_rows=vision_rows, merge_clips=merge_clips)
        result = Generation(prompt_tokens=len(prompt.ids))
        if keep:
            state = self._dialogue = self._dialogue or PromptCache(self.llm, self._n_ctx)
        else:
            room = 0 if config is None else config.max_new_tokens
            state = PromptCache(self.llm, min(self._n_ctx, len(prompt.ids) + room))
        is_media = np.zeros(len(prompt.ids), np.bool_)
        for first, end in (*prompt.image_spans, *prompt.audio_spans):
            is_media[first:end] = True
        keys = row_keys(prompt.ids, embeds, is_media)
        logits, result.reused_tokens = state.prefill(keys, embeds)
        result.prefill_seconds = time.perf_counter() - start
        if config is None:
            tokens = iter(result.ids)
        elif config.num_beams > 1:
            search(self.llm, state, logits, self._stop_ids, config, result)
            tokens = iter(result.ids)
        else:
            tokens = sample(self.llm, state, logits, self._stop_ids, config, result)
        pieces = self._text(tokens, result)
        if order is not None:
            pieces = self._then_speech(pieces, order, prompt, keys, embeds, state, result)
        return TextStream(pieces, result)

    def _then_speech(
        self,
        pieces: Iterator[str],
        order: SpeechOrder,
        prompt: Prompt,
        keys: NDArray[np.int64],
        embeds: NDArray[np.float32],
        state: PromptCache,
        result: Generation,
    ) -> Iterator[str]:
        """The pieces of text; when they are through, the answer is spoken to a file."""
        yield from pieces
        start = time.perf_counter()
        ids = [*prompt.ids.tolist(), *result.ids]
        first, end = spoken_span(ids, self.tokenizer, given=not result.ids)
        n_prompt = len(prompt.ids)
        if first == end:
            warnings.warn(f"the answer has nothing to speak: {order.path} was not written", stacklevel=2)
            return
        # The states of the sequence that was chosen: a beam search leaves those of others.
        generated = np.asarray(ids[max(n_prompt, first) : end], np.int32)
        rows = embeds[first : min(end, n_prompt)]
        new_keys = keys[first : min(end, n_prompt)]
        if len(generated):
            rows = np.concatenate([rows, self.llm.embed(generated)])
            new_keys = np.concatenate([new_keys, generated.astype(np.int64)])
        hidden = state.recompute(first, new_keys, rows)
        spoken = np.asarray(ids[first:end], np.int32)
        result.speech_tokens = order.fill(self.require_speaker(), spoken, hidden, self.variant)
        result.speech_seconds = time.perf_counter() - start

    def embed_prompt(
        self,
        prompt: Prompt,
        *,
        vision_rows: NDArray[np.float32] | None = None,
        merge_clips: bool = True,
    ) -> NDArray[np.float32]:
        """Embeddings [n, D] of a prompt, pictures and clips encoded."""
        embeds = self.llm.embed(prompt.ids)
        if vision_rows is not None:
            rows = np.asarray(vision_rows, np.float32).reshape(-1, embeds.shape[1])
            wanted = sum(end - first for first, end in prompt.image_spans)
            if len(rows) != wanted:
                raise InvalidArgumentError(
                    f"vision_hidden_states has {len(rows)} rows; the prompt needs {wanted}"
                )
            splice(embeds, prompt.image_spans, rows)
        elif prompt.pictures:
            encoded = [self._encode_picture(picture, prompt.options.slices) for picture in prompt.pictures]
            splice(embeds, prompt.image_spans, np.concatenate(encoded))
        if prompt.clips:
            splice(embeds, prompt.audio_spans, self._encode_clips(prompt.clips, merge_clips))
        return embeds

    def _encode_picture(self, pixels: NDArray[np.uint8], max_slices: int) -> NDArray[np.float32]:
        """Rows [k * embeddings of a slice, D]."""
        vision = self.require_vision()

        def encode() -> NDArray[np.float32]:
            rows = vision.encode(pixels, max_slice_nums=max_slices)
            return rows.reshape(-1, rows.shape[-1])

        return self._encodings.get((pixels, max_slices), encode)

    def _encode_clips(
        self, clips: Sequence[Sequence[NDArray[np.float32]]], merge: bool
    ) -> NDArray[np.float32]:
        """Rows [k, D] of all clips, in order. The clips of a message are encoded as one."""
        audio = self.require_audio()
        parts = [np.concatenate(c) for c in clips] if merge else [clip for c in clips for clip in c]
        if self.quirks == "reference":  # clips of a request see each other's padding
            return audio.encode_batch(parts, _AUDIO_CHUNK_SECONDS)
        encode = functools.partial(audio.encode, chunk_seconds=_AUDIO_CHUNK_SECONDS)
        rows = [self._encodings.get((part, 0), functools.partial(encode, part)) for part in parts]
        return np.concatenate(rows)

    # ---- simplex streaming ----

    def streaming_prefill(
        self,
        session_id: str,
        msgs: Sequence[Mapping[str, Any]],
        omni_mode: bool = True,
        max_slice_nums: int | None = None,
        use_tts_template: bool = True,
        enable_thinking: bool = False,
        is_last_chunk: bool = False,
        tokenizer: Any = None,
        processor: Any = None,
        *,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> str:
        """Adds a message, or the next piece of the user's, to the context of the dialogue.

        A new `session_id` begins a new dialogue. Its first message may be the system's; what the user says,
        shows and writes comes in as many pieces as it takes, then `streaming_generate()` answers.

        Args:
            session_id: any name.
            msgs: one message; its content holds at most one clip. A piece of sound has a second or more
                (16 kHz mono); what is left of a second waits for the next piece.
            omni_mode: items follow one another without line breaks.
            max_slice_nums: slices of a large picture at most (None: 1).
            is_last_chunk: the sound ends here and may be shorter than a second.
            use_tts_template, enable_thinking, tokenizer, processor: accepted and not used.
            limits: what addresses in the message may be read.

        Returns:
            The text that was added, with short placeholders for pictures and clips.

        Raises:
            InvalidArgumentError, ContextFullError, ModelFileError, FormatError
        """
        warn_unknown("streaming_prefill", kwargs)
        if self._simplex is None or self._simplex.session_id != session_id:
            self.reset_session(reset_token2wav_cache=False)
            self._simplex = SimplexSession(self, session_id, self._n_ctx)
        return self._simplex.prefill(
            msgs,
            omni_mode=omni_mode,
            max_slice_nums=1 if max_slice_nums is None else max_slice_nums,
            is_last_chunk=is_last_chunk,
            limits=limits,
        )

    def streaming_generate(
        self,
        session_id: str,
        tokenizer: Any = None,
        bos_input: str | Sequence[int] | None = None,
        generate_audio: bool = True,
        audio_token_chunk_size: int = 25,
        tts_sampling_params: Any = None,
        max_new_tokens: int = 256,
        enable_thinking: bool = False,
        use_tts_template: bool = True,
        do_sample: bool = True,
        enable_speculative_snapshot: bool = False,
        teacher_forcing: bool = False,
        teacher_forcing_text: str = "",
        *,
        temperature: float = 0.7,
        top_p: float = 0.8,
        top_k: int = 100,
        repetition_penalty: float = 1.02,
        length_penalty: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Answers what was prefilled, piece by piece as it is made; the context keeps the answer.

        Args:
            session_id: that of the prefills.
            tokenizer: accepted and not used.
            bos_input: text or ids that open the answer, instead of the usual.
            generate_audio: speak the answer.
            audio_token_chunk_size: 25, a second.
            tts_sampling_params: how speech is drawn, see `omni.speaking.TTSSamplingParams`.
            max_new_tokens: length of the answer in tokens, rounded up to tens.
            enable_thinking: let the model reason first.
            use_tts_template: let the model know that the answer is spoken.
            do_sample, temperature, top_p, top_k, repetition_penalty: of the choice of tokens.
            length_penalty: more than 1 makes answers longer; 1.1 suits spoken dialogue.
            enable_speculative_snapshot: let `restore_speculative_snapshot()` undo this answer.
            teacher_forcing, teacher_forcing_text: say this text instead of generating an answer.
            seed: makes drawing reproducible.

        Yields:
            With sound: the waveform, float32 [1, n] at 24 kHz, a second at a time, and the text that came
            with it; text runs ahead of the sound. Without: text of about 10 tokens, and whether the answer is
            complete (False to the end if `max_new_tokens` stopped it). Special tokens are part of the text.

        Raises:
            InvalidArgumentError, ContextFullError, UnsupportedError
        """
        warn_unknown("streaming_generate", kwargs)
        session = self._simplex
        if session is None or session.session_id != session_id:
            raise InvalidArgumentError(
                f"session {session_id!r} has not begun: call streaming_prefill() first"
            )
        config = GenerationConfig(
            do_sample=do_sample,
            num_beams=1,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        if not 0 < length_penalty <= 1e3:
            raise InvalidArgumentError(
                f"length_penalty must be above 0 and at most 1000, not {length_penalty}"
            )
        options = config.sampler_options() | {"length_penalty": length_penalty}
        del options["min_new_tokens"]
        if audio_token_chunk_size != 25:
            raise UnsupportedError(f"audio_token_chunk_size must be 25, not {audio_token_chunk_size}")
        speaker = self.require_speaker() if generate_audio else None
        params = TTSSamplingParams.of(tts_sampling_params)
        groups = session.generate(
            options,
            max_new_tokens=max_new_tokens,
            bos_input=bos_input,
            enable_thinking=enable_thinking,
            use_tts_template=use_tts_template,
            spoken=generate_audio,
            text=teacher_forcing_text if teacher_forcing else None,
            snapshot=enable_speculative_snapshot,
        )
        if speaker is None:
            return group_texts(groups, self.tokenizer)
        return speaker.speak(groups, self.tokenizer, params, seed)

    def restore_speculative_snapshot(self) -> bool:
        """Undoes the last answer that was generated with `enable_speculative_snapshot`, as if it never was.

        For answers that begin before it is certain that the user has finished. True if it was undone; each
        snapshot serves once.
        """
        return self._simplex is not None and self._simplex.restore()

    def reset_session(self, reset_token2wav_cache: bool = True) -> None:
        """Forgets the streamed dialogue and, unless told otherwise, the voice that it was spoken with."""
        self._simplex = None
        if reset_token2wav_cache and self._speaker is not None:
            self._speaker.forget_voice()

    # ---- full duplex ----

    def as_duplex(self, device: str | None = None, **params: Any) -> MiniCPMODuplex:
        """A full-duplex session with the same weights, and a context of its own.

        Args:
            device: accepted and not used.
            params: see `omni.duplex.DuplexParams`.

        Raises:
            InvalidArgumentError, UnsupportedError, OutOfMemoryError
        """
        return MiniCPMODuplex(self, DuplexParams.of(params, self.variant), self._n_ctx)

    # ---- text of an answer ----

    def _text(self, tokens: Iterator[int], result: Generation) -> Iterator[str]:
        """Text of generated tokens: up to the end of the spoken text, without the marks of start and end."""
        detokenizer = _ext.Detokenizer(self.tokenizer)
        start = self.tokenizer.required_id("<|im_start|>")
        for position, token in enumerate(tokens):
            if token in self._stop_ids or token == self._tts_eos:
                result.finish = "stop"
                break
            # The published code takes 0, which is "!", for padding.
            if (position == 0 and token == start) or (token == 0 and self.quirks == "reference"):
                continue
            if piece := detokenizer.push(token):
                yield piece
        if rest := detokenizer.flush():
            yield rest

    def describe(self) -> str:
        """One line: files, quantisation, device and memory."""
        info = self.llm.info
        loaded = (("vision", self.vision), ("audio", self.audio), ("speech", self._speaker))
        parts = [name for name, part in loaded if part is not None]
        with_parts = f" with {', '.join(parts)}" if parts else ""
        sizes = info.n_layers, info.n_kv_heads, info.head_dim
        context = context_bytes(*sizes, self._n_ctx, self._kv_type)
        llm = self.files.llm
        count = self._compute["n_threads"] or _ext.default_threads()
        threads = "" if self._compute["device"] else f" ({count} thread{'s' * (count > 1)})"
        return (
            f"{llm.name}{with_parts}: {quantisation(llm)}, {_gigabytes(info.file_bytes)}, "
            f"on {self.llm.device_name}{threads}, context {self._n_ctx} ({_gigabytes(context)})"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _is_batch(msgs: Any) -> bool:
    return (
        isinstance(msgs, Sequence)
        and not isinstance(msgs, str)
        and len(msgs) > 0
        and isinstance(msgs[0], (list, tuple))
    )
