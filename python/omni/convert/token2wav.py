"""Flow, vocoders and the two networks of voice cloning to the files of token2wav-gguf/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omni.convert.checkpoint import Shape
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.errors import FormatError
from omni.model_files import TOKEN2WAV_FOLDER

Named = list[tuple[str, Shape]]

_UPSAMPLE_KERNELS = (16, 11, 7)
_SOURCE_KERNELS = (30, 6, 1)
_SOURCE_BLOCK_KERNELS = (7, 7, 11)
_BLOCK_KERNELS = (3, 7, 11)
_STFT_CHANNELS = 18
_HARMONICS = 9


@dataclass(frozen=True)
class FlowSizes:
    """flow.pt: encoder and estimator. Defaults: the published model."""

    tokens: int = 6561
    speaker: int = 192
    mel: int = 80
    width: int = 512
    heads: int = 8
    ffn: int = 2048
    blocks: int = 6
    up_blocks: int = 4
    dit_width: int = 512
    dit_head: int = 64
    dit_mlp: int = 2048
    dit_depth: int = 16
    dit_inputs: int = 320
    time: int = 256

    @classmethod
    def of(cls, shapes: dict[str, Shape], where: str) -> FlowSizes:
        """The sizes that the tensors have."""
        get = _getter(shapes, where)
        block = "decoder.estimator.blocks."
        return cls(
            tokens=get("input_embedding.weight", 0),
            speaker=get("spk_embed_affine_layer.weight", 1),
            mel=get("spk_embed_affine_layer.weight", 0),
            width=get("input_embedding.weight", 1),
            heads=get("encoder.encoders.0.self_attn.pos_bias_u", 0),
            ffn=get("encoder.encoders.0.feed_forward.w_1.weight", 0),
            blocks=_count(shapes, "encoder.encoders."),
            up_blocks=_count(shapes, "encoder.up_encoders."),
            dit_width=get(f"{block}0.attn.to_q.weight", 0),
            dit_head=get(f"{block}0.attn.q_norm.weight", 0),
            dit_mlp=get(f"{block}0.mlp.fc1.weight", 0),
            dit_depth=_count(shapes, block),
            dit_inputs=get("decoder.estimator.in_proj.weight", 1),
            time=get("decoder.estimator.t_embedder.mlp.0.weight", 1),
        )


@dataclass(frozen=True)
class VocoderSizes:
    """hift.pt: the published vocoder, or the later causal one."""

    causal: bool = False
    mel: int = 80
    base: int = 512
    f0: int = 512

    @classmethod
    def of(cls, shapes: dict[str, Shape], where: str) -> VocoderSizes:
        """Both kinds come under the same file name; the first convolution tells them apart."""
        get = _getter(shapes, where)
        kernel = get("conv_pre.weight", 2)
        if kernel not in (5, 7):
            raise FormatError(
                f"{where}: conv_pre has {kernel} taps; neither vocoder (7) nor causal vocoder (5)"
            )
        return cls(
            kernel == 5,
            get("conv_pre.weight", 1),
            get("conv_pre.weight", 0),
            get("f0_predictor.classifier.weight", 1),
        )


@dataclass(frozen=True)
class SpeechTokenizerSizes:
    """speech_tokenizer_v2_25hz.onnx."""

    mels: int = 128
    width: int = 1280
    ffn: int = 5120
    layers: int = 6
    digits: int = 8
    taps: int = 31

    @classmethod
    def of(cls, shapes: dict[str, Shape], where: str) -> SpeechTokenizerSizes:
        """The sizes that the tensors have."""
        get = _getter(shapes, where)
        return cls(
            mels=get("encoder.conv1.weight", 1),
            width=get("encoder.conv1.weight", 0),
            ffn=get("encoder.blocks.0.mlp.0.weight", 0),
            layers=_count(shapes, "encoder.blocks."),
            digits=get("quantizer._codebook.project_down.weight", 0),
            taps=get("encoder.blocks.0.attn.fsmn_block.weight", 2),
        )


@dataclass(frozen=True)
class SpeakerSizes:
    """campplus.onnx."""

    head: int = 32
    rows: int = 10  # frequency rows after the head
    first: int = 128
    growth: int = 32
    bottleneck: int = 128
    layers: tuple[int, ...] = (12, 24, 16)
    embedding: int = 192

    @classmethod
    def of(cls, shapes: dict[str, Shape], where: str) -> SpeakerSizes:
        """The sizes that the tensors have."""
        get = _getter(shapes, where)
        head = get("head.conv1.weight", 0)
        return cls(
            head=head,
            rows=get("xvector.tdnn.linear.weight", 1) // head,
            first=get("xvector.tdnn.linear.weight", 0),
            growth=get("xvector.block1.tdnnd1.cam_layer.linear_local.weight", 0),
            bottleneck=get("xvector.block1.tdnnd1.linear1.weight", 0),
            layers=tuple(_count(shapes, f"xvector.block{b}.tdnnd") for b in (1, 2, 3)),
            embedding=get("xvector.dense.linear.weight", 0),
        )


def plan_flow(sizes: FlowSizes) -> list[FilePlan]:
    """The three files that flow.pt becomes."""
    mel, width = sizes.mel, sizes.width
    extra: Named = [
        ("input_embedding.weight", (sizes.tokens, width)),
        *_linear("spk_embed_affine_layer", mel, sizes.speaker),
        *_linear("encoder_proj", mel, width),
    ]
    return [
        _file("encoder", "token2wav-encoder", _encoder(sizes), "encoder."),
        _file("flow_matching", "token2wav-flow-matching", _estimator(sizes), "decoder."),
        _file("flow_extra", "token2wav-flow-extra", extra),
    ]


def plan_vocoder(sizes: VocoderSizes) -> FilePlan:
    """The vocoder's file, with weight normalisation merged."""
    names: Named = []
    for i, (inputs, taps) in enumerate([(sizes.mel, 4 if sizes.causal else 3)] + [(sizes.f0, 3)] * 4):
        names += _conv(f"f0_predictor.condnet.{2 * i}", sizes.f0, inputs, taps)
    names += _linear("f0_predictor.classifier", 1, sizes.f0)
    names += _linear("m_source.l_linear", 1, _HARMONICS)
    names += _conv("conv_pre", sizes.base, sizes.mel, 5 if sizes.causal else 7)
    channels = [sizes.base >> i for i in range(4)]
    for i, taps in enumerate(_UPSAMPLE_KERNELS):
        # A transposed convolution keeps its inputs first.
        shape = (channels[i + 1], channels[i], taps) if sizes.causal else (channels[i], channels[i + 1], taps)
        names += [(f"ups.{i}.weight", shape), (f"ups.{i}.bias", (channels[i + 1],))]
    for i, taps in enumerate(_SOURCE_KERNELS):
        names += _conv(f"source_downs.{i}", channels[i + 1], _STFT_CHANNELS, taps)
    for i, taps in enumerate(_SOURCE_BLOCK_KERNELS):
        names += _residual_block(f"source_resblocks.{i}", channels[i + 1], taps)
    for i in range(9):
        names += _residual_block(f"resblocks.{i}", channels[i // 3 + 1], _BLOCK_KERNELS[i % 3])
    names += _conv("conv_post", _STFT_CHANNELS, channels[3], 7)
    if sizes.causal:
        return _file("causal_vocoder", "omni-causal-vocoder", names)
    return _file("hifigan2", "token2wav-hifigan2", names)


def plan_speech_tokenizer(sizes: SpeechTokenizerSizes) -> FilePlan:
    """Our own file: the S3 tokenizer, which the official set lacks."""
    width = sizes.width
    names = [*_conv("encoder.conv1", width, sizes.mels, 3), *_conv("encoder.conv2", width, width, 3)]
    for i in range(sizes.layers):
        block = f"encoder.blocks.{i}."
        names += _norm(f"{block}attn_ln", width)
        names += _linear(f"{block}attn.query", width, width)
        names += [(f"{block}attn.key.weight", (width, width))]
        names += _linear(f"{block}attn.value", width, width)
        names += [(f"{block}attn.fsmn_block.weight", (width, 1, sizes.taps))]
        names += _linear(f"{block}attn.out", width, width)
        names += _norm(f"{block}mlp_ln", width)
        names += _linear(f"{block}mlp.0", sizes.ffn, width) + _linear(f"{block}mlp.2", width, sizes.ffn)
    names += _linear("quantizer._codebook.project_down", sizes.digits, width)
    return _file("speech_tokenizer", "omni-speech-tokenizer", names)


def plan_speaker(sizes: SpeakerSizes) -> FilePlan:
    """Our own file: CAM++. Normalisations that follow a convolution are merged in the checkpoint already."""
    head = sizes.head
    names: Named = [("head.conv1.weight", (head, 1, 3, 3)), ("head.conv1.bias", (head,))]
    for layer in ("layer1", "layer2"):
        for block, shortcut in ((0, True), (1, False)):
            place = f"head.{layer}.{block}"
            names += _square(f"{place}.conv1", head, 3) + _square(f"{place}.conv2", head, 3)
            names += _square(f"{place}.shortcut.0", head, 1) if shortcut else []
    names += _square("head.conv2", head, 3)
    names += _conv("xvector.tdnn.linear", sizes.first, head * sizes.rows, 5)
    channels = sizes.first
    for b, layers in enumerate(sizes.layers, start=1):
        for i in range(1, layers + 1):
            names += _dense_layer(f"xvector.block{b}.tdnnd{i}", channels, sizes)
            channels += sizes.growth
        transit = f"xvector.transit{b}"
        names += _batch_norm(f"{transit}.nonlinear.batchnorm", channels)
        names.append((f"{transit}.linear.weight", (channels // 2, channels, 1)))
        channels //= 2
    names.append(("xvector.transit3.linear.bias", (channels,)))  # the normalisation after it
    names.append(("xvector.dense.linear.weight", (sizes.embedding, 2 * channels, 1)))
    names += [
        (f"xvector.dense.nonlinear.batchnorm.running_{what}", (sizes.embedding,)) for what in ("mean", "var")
    ]
    return _file("speaker_encoder", "omni-speaker-encoder", names)


def _encoder(sizes: FlowSizes) -> Named:
    width = sizes.width
    names: Named = []
    for part, count in (("", sizes.blocks), ("up_", sizes.up_blocks)):
        if part:
            names += _conv("up_layer.conv", width, width, 5)
        names += _linear(f"{part}embed.out.0", width, width) + _norm(f"{part}embed.out.1", width)
        if not part:
            names += _conv("pre_lookahead_layer.conv1", width, width, 4)
            names += _conv("pre_lookahead_layer.conv2", width, width, 3)
        for i in range(count):
            names += _conformer_layer(f"{part}encoders.{i}", sizes)
    return names + _norm("after_norm", width)


def _conformer_layer(place: str, sizes: FlowSizes) -> Named:
    width = sizes.width
    names = _norm(f"{place}.norm_mha", width) + _norm(f"{place}.norm_ff", width)
    for part in ("q", "k", "v", "out"):
        names += _linear(f"{place}.self_attn.linear_{part}", width, width)
    names.append((f"{place}.self_attn.linear_pos.weight", (width, width)))
    names += [(f"{place}.self_attn.pos_bias_{x}", (sizes.heads, width // sizes.heads)) for x in "uv"]
    names += _linear(f"{place}.feed_forward.w_1", sizes.ffn, width)
    return names + _linear(f"{place}.feed_forward.w_2", width, sizes.ffn)


def _estimator(sizes: FlowSizes) -> Named:
    width = sizes.dit_width
    names = _linear("estimator.t_embedder.mlp.0", width, sizes.time)
    names += _linear("estimator.t_embedder.mlp.2", width, width)
    names += _linear("estimator.in_proj", width, sizes.dit_inputs)
    for i in range(sizes.dit_depth):
        block = f"estimator.blocks.{i}."
        names += _linear(f"{block}adaLN_modulation.1", 9 * width, width)
        for part in ("to_q", "to_k", "to_v", "proj"):
            names += _linear(f"{block}attn.{part}", width, width)
        names += _norm(f"{block}attn.q_norm", sizes.dit_head) + _norm(f"{block}attn.k_norm", sizes.dit_head)
        names += _conv(f"{block}conv.block.1", width, width, 3)
        names += _norm(f"{block}conv.block.3", width)
        names += _conv(f"{block}conv.block.6", width, width, 3)
        names += _linear(f"{block}mlp.fc1", sizes.dit_mlp, width) + _linear(
            f"{block}mlp.fc2", width, sizes.dit_mlp
        )
    names += _linear("estimator.final_layer.adaLN_modulation.1", 2 * width, width)
    return names + _linear("estimator.final_layer.linear", sizes.mel, width)


def _residual_block(place: str, channels: int, taps: int) -> Named:
    names: Named = []
    for i in range(3):
        for part in ("1", "2"):
            names += _conv(f"{place}.convs{part}.{i}", channels, channels, taps)
            names.append((f"{place}.activations{part}.{i}.alpha", (channels,)))
    return names


def _dense_layer(place: str, inputs: int, sizes: SpeakerSizes) -> Named:
    middle = sizes.bottleneck
    names = _batch_norm(f"{place}.nonlinear1.batchnorm", inputs)
    names += _conv(f"{place}.linear1", middle, inputs, 1)
    names.append((f"{place}.cam_layer.linear_local.weight", (sizes.growth, middle, 3)))
    names += _conv(f"{place}.cam_layer.linear1", middle // 2, middle, 1)
    return names + _conv(f"{place}.cam_layer.linear2", sizes.growth, middle // 2, 1)


def _linear(name: str, outputs: int, inputs: int) -> Named:
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def _conv(name: str, outputs: int, inputs: int, taps: int) -> Named:
    return [(f"{name}.weight", (outputs, inputs, taps)), (f"{name}.bias", (outputs,))]


def _square(name: str, channels: int, taps: int) -> Named:
    return [(f"{name}.weight", (channels, channels, taps, taps)), (f"{name}.bias", (channels,))]


def _norm(name: str, width: int) -> Named:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def _batch_norm(name: str, width: int) -> Named:
    return [(f"{name}.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var")]


def _file(name: str, architecture: str, tensors: Named, prefix: str = "") -> FilePlan:
    plans = [TensorPlan(tensor, shape, "F32", (Source(prefix + tensor, shape),)) for tensor, shape in tensors]
    return FilePlan(
        f"{TOKEN2WAV_FOLDER}/{name}.gguf", [Key("general.architecture", "str", architecture)], plans
    )


def _getter(shapes: dict[str, Shape], where: str) -> Callable[[str, int], int]:
    def get(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        if len(shape) <= axis or shape[axis] < 1:
            raise FormatError(f"{where}: tensor '{name}' is missing or has the wrong number of dimensions")
        return shape[axis]

    return get


def _count(shapes: dict[str, Shape], prefix: str) -> int:
    """How many numbered blocks there are. Gaps show up as missing tensors later."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})
