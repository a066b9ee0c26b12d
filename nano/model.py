"""The language model and the projector in PyTorch: Qwen3 blocks with the published names."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nano import whisper
from nano.checkpoint import Sizes

POOL = 5


class RmsNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query attention with norms of queries and keys, rotated by position."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = s.num_attention_heads, s.num_key_value_heads, s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, self.heads * self.size, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, self.kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.size, s.hidden_size, bias=False)
        self.q_norm = RmsNorm(self.size, s.rms_norm_eps)
        self.k_norm = RmsNorm(self.size, s.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, rows, width]."""
        batch, rows, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(batch, rows, self.heads, self.size)), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(batch, rows, self.kv_heads, self.size)), cos, sin)
        v = self.v_proj(x).view(batch, rows, self.kv_heads, self.size)
        repeat = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(repeat, dim=2).transpose(1, 2) for t in (k, v))
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v.to(k.dtype), is_causal=True)
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, rows, -1))
        return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves as pairs: x [batch, rows, heads, size]."""
    a, b = x.chunk(2, dim=-1)
    turned = torch.cat([-b, a], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class Layer(nn.Module):
    """One block."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RmsNorm(s.hidden_size, s.rms_norm_eps)
        self.mlp = Mlp(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Backbone(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))
        self.norm = RmsNorm(s.hidden_size, s.rms_norm_eps)


class LanguageModel(nn.Module):
    """Qwen3ForCausalLM with an output matrix of its own."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.model = Backbone(s)
        self.lm_head = nn.Linear(s.hidden_size, s.vocab_size, bias=False)


class Projector(nn.Module):
    """Features of the ear, 50 a second, to embeddings, 10 a second."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.linear1 = nn.Linear(whisper.WIDTH, s.hidden_size)
        self.linear2 = nn.Linear(s.hidden_size, s.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """[n, 384] to [n / 5, width]. The mean may come before the second matrix, which is linear."""
        hidden = F.relu(self.linear1(features))
        result: Tensor = self.linear2(hidden.view(-1, POOL, hidden.shape[-1]).mean(dim=1))
        return result


class Recogniser(nn.Module):
    """Words that are heard, read from the first half of the layers. Helps training; left out after it."""

    def __init__(self, s: Sizes, words: int) -> None:
        super().__init__()
        self.norm = RmsNorm(s.hidden_size, s.rms_norm_eps)
        self.head = nn.Linear(s.hidden_size, words + 1)  # 0: no new word

    def loss(self, half: Tensor, is_audio: Tensor, words: list[list[int]]) -> Tensor:
        """CTC loss a word. half [batch, n, width], words: numbers from 1 of what each sequence says."""
        scores = self.head(self.norm(half)).float().log_softmax(-1)
        lengths = is_audio.sum(dim=1)
        heard = [s[m] for s, m in zip(scores, is_audio, strict=True) if bool(m.any())]
        texts = [w for w, n in zip(words, lengths.tolist(), strict=True) if n]
        padded = nn.utils.rnn.pad_sequence(heard)
        total = F.ctc_loss(
            padded,
            torch.tensor([w for text in texts for w in text]),
            lengths[lengths > 0],
            torch.tensor([len(text) for text in texts]),
            reduction="sum",
            zero_infinity=True,
        )
        return total / max(1, sum(map(len, texts)))


class Nano(nn.Module):
    """What is trained: `llm.*` and `audio_projection_layer.*` of the checkpoint."""

    def __init__(self, s: Sizes, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes, self.dropout = s, dropout
        self.llm = LanguageModel(s)
        self.audio_projection_layer = Projector(s)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, features: Tensor, is_audio: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the rows asked for, and all rows after the first half of the layers.

        ids [batch, n]; features [k, 384] of all audio rows in order; is_audio [batch, n]; rows: indices into
        the flattened batch.
        """
        x = self.llm.model.embed_tokens(ids)
        if features.shape[0]:
            heard = F.dropout(self.audio_projection_layer(features), self.dropout, self.training)
            x = x.masked_scatter(is_audio.unsqueeze(-1), heard.to(x.dtype))
        cos, sin = self._angles(ids.shape[1])
        half = x
        for i, layer in enumerate(self.llm.model.layers, start=1):
            x = layer(x, cos, sin)
            if 2 * i == len(self.llm.model.layers):
                half = x
        x = self.llm.model.norm(x.reshape(-1, x.shape[-1])[rows])
        return self.llm.lm_head(x), half

    def _angles(self, rows: int) -> tuple[Tensor, Tensor]:
        size = self.sizes.head_dim
        speeds = self.sizes.rope_theta ** (-torch.arange(0, size, 2).double() / size)
        angles = torch.outer(torch.arange(rows).double(), speeds)
        both = torch.cat([angles, angles], dim=-1).float().unsqueeze(1)
        return both.cos(), both.sin()

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Weights by their published names."""
        return {k: v.detach().float().numpy().copy() for k, v in self.state_dict().items()}
