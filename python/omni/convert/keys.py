"""Our own metadata keys: facts of a checkpoint for which the official files have no key.

A key is written only where the value differs from the published model's, so files of the published sizes stay
byte for byte as long as the official ones.
"""

from __future__ import annotations

# Language model file, i32[]: ids that speech modes never emit. Absent: the rule of
# `tokenizer.bad_token_rule` gives them.
BAD_TOKEN_IDS = "omni.bad_token_ids"

# Language model file: how a full-duplex session's context is kept short, under the names of the published
# options. Absent: the published defaults.
DUPLEX_MODE = "omni.duplex.sliding_window_mode"  # str: off, basic, context
DUPLEX_LIMITS = "omni.duplex."  # u32, with the option's name behind it

# Speech model file, u32: rows of emb_text that stand for "speech begins" and "no more text". Absent: 151687
# and 151692.
AUDIO_BOS_TOKEN_ID = "omni.audio_bos_token_id"
TEXT_EOS_TOKEN_ID = "omni.text_eos_token_id"
