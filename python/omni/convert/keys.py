"""Our own metadata keys: facts of a checkpoint for which the official files have no key.

A key is written only where the value differs from the published model's, so files of the published sizes stay
byte for byte as long as the official ones.
"""

from __future__ import annotations

# Language model file, i32[]: ids that speech modes never emit. Absent: the rule of
# `tokenizer.bad_token_rule` gives them.
BAD_TOKEN_IDS = "omni.bad_token_ids"
