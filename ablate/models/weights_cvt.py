"""The keys of the authors' CvT files."""

from __future__ import annotations

from ablate.models.weights_layouts import Layout, Rules

_RUN = r"stages\.(?P<i>\d+)\.0\.V\."
_BLOCK = _RUN + r"blocks\.(?P<j>\d+)\."
_IN_BLOCK = "stage{i}.blocks.{j}."

_BLOCK_PARTS: Rules = (
    (r"(?P<part>norm1|norm2)\.", "{part}."),
    (r"attn\.(?P<part>[qkv])\.conv\.", "attn.conv_proj_{part}.conv."),
    (r"attn\.(?P<part>[qkv])\.norm\.", "attn.conv_proj_{part}.bn."),
    (r"attn\.(?P<part>[qkv])\.linear\.", "attn.proj_{part}."),
    (r"attn\.out\.(?=weight|bias)", "attn.proj."),
    (r"ffn\.expand\.", "mlp.fc1."),
    (r"ffn\.project\.", "mlp.fc2."),
)

_RULES: Rules = (
    (_RUN + r"embed\.(?P<part>proj|norm)\.(?=weight|bias)", "stage{i}.patch_embed.{part}."),
    *((_BLOCK + ours, _IN_BLOCK + theirs) for ours, theirs in _BLOCK_PARTS),
    (r"stages\.2\.0\.V\.cls_token$", "stage2.cls_token"),  # theirs only in the third stage
    (r"stages\.2\.0\.V\.norm\.", "norm."),
    (r"head\.fc\.", "head."),
)

CVT_OFFICIAL = Layout(
    name="official",
    title="official CvT",
    marks=(r"stage\d+\.patch_embed\.",),
    rules=_RULES,
    head=r"(head|norm)\.",
)
