"""The keys of CoaT: the authors' files, and timm's, which leave the unused norms out."""

from __future__ import annotations

import re

from ablate.models.network import Network
from ablate.models.weights_layouts import Layout, Rules, unused_norms

_RUN = r"stages\.(?P<i>\d+)\.0\.F\."
_SERIAL = _RUN + r"blocks\.(?P<j>\d+)\."
_PARALLEL = r"group\.blocks\.(?P<j>\d+)\."

_COAT_RULES: Rules = (
    (_RUN + r"embed\.(?P<part>proj|norm)\.(?=weight|bias)", "patch_embed{i_next}.{part}."),
    (_RUN + r"cls_token$", "cls_token{i_next}"),
    (_RUN + r"cpe\.", "cpe{i_next}."),
    (_RUN + r"crpe\.convs\.", "crpe{i_next}.conv_list."),
    (_RUN + r"norm\.", "norm{i_next}."),
    (_SERIAL + r"norm(?P<k>[12])\.", "serial_blocks{i_next}.{j}.norm{k}."),
    (_SERIAL + r"attn\.(?=qkv|proj\.)", "serial_blocks{i_next}.{j}.factoratt_crpe."),
    (_SERIAL + r"mlp\.expand\.", "serial_blocks{i_next}.{j}.mlp.fc1."),
    (_SERIAL + r"mlp\.project\.", "serial_blocks{i_next}.{j}.mlp.fc2."),
    (_PARALLEL + r"norm(?P<k>[12])\.(?P<s>\d+)\.", "parallel_blocks.{j}.norm{k}{s}."),
    (_PARALLEL + r"attn\.(?P<s>\d+)\.", "parallel_blocks.{j}.factoratt_crpe{s}."),
    (_PARALLEL + r"mlp\.expand\.", "parallel_blocks.{j}.mlp2.fc1."),
    (_PARALLEL + r"mlp\.project\.", "parallel_blocks.{j}.mlp2.fc2."),
    (r"head\.aggregate\.", "aggregate."),
    (r"head\.fc\.", "head."),
)


def _coat_aliases(model: Network) -> dict[str, str]:
    """Shared modules that the official code registers again in every block that uses them."""
    names = list(Layout.names(COAT_OFFICIAL, model).values())
    depths = [stage[0].depth for stage in model.blueprint.stages]
    group = model.blueprint.group
    blocks = range(group.depth if group else 0)
    found: dict[str, str] = {}
    for name in names:
        shared = re.match(r"(?P<kind>cpe|crpe)(?P<n>\d+)\.", name)
        mlp = re.match(r"parallel_blocks\.(?P<j>\d+)\.mlp2\.", name)
        if shared:
            kind, stage = shared["kind"], int(shared["n"])
            inner = "cpe" if kind == "cpe" else "factoratt_crpe.crpe"
            rest = name[shared.end() :]
            for j in range(depths[stage - 1]):
                found[f"serial_blocks{stage}.{j}.{inner}.{rest}"] = name
            if kind == "crpe" and stage in model.blueprint.scales:
                for j in blocks:
                    found[f"parallel_blocks.{j}.factoratt_crpe{stage}.crpe.{rest}"] = name
        elif mlp:
            for scale in model.blueprint.scales[1:]:
                found[f"parallel_blocks.{mlp['j']}.mlp{scale}.{name[mlp.end() :]}"] = name
    return found


COAT_OFFICIAL = Layout(
    name="official",
    title="official CoaT",
    marks=(r"serial_blocks\d+\.", r"norm1\."),
    rules=_COAT_RULES,
    head=r"head\.|aggregate\.|norm\d\.",
    aliases=_coat_aliases,
)
COAT_TIMM = Layout(
    name="timm",
    title="timm CoaT",
    marks=(r"serial_blocks\d+\.",),
    rules=_COAT_RULES,
    head=r"head\.|aggregate\.|norm\d\.",
    aliases=_coat_aliases,
    absent=unused_norms,
)
