"""`meta.json`: what a folder of results was made with, in lines that git can merge.

One key a line, each with its comma, and a fixed last line: a union merge of two machines' files
is JSON again (of a key that stands twice, the last counts).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate.files import write_atomic
from ablate.study.cells import Cell
from ablate.study.environment import code, environment
from ablate.study.rows import Row

FORMAT = 1
ATTRIBUTES = "*.csv merge=union\nmeta.json merge=union\n"


def study_hash(cells: Iterable[Cell]) -> str:
    """A digest of all keys of a study: equal where exactly the same trials are asked for."""
    keys = sorted(f"{cell.variant_name}={cell.key}" for cell in cells)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of `meta.json`; empty where there is none or it does not parse."""
    try:
        content = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_meta(
    folder: Path, cells: list[Cell], rows: Iterable[Row], record: Mapping[str, Any]
) -> None:
    """Write `meta.json` and, in `results/`, the merge rules for git.

    Args:
        record: what the study's data and initial weights turned out to be.
    """
    now = environment()
    devices = sorted({row["device"] for row in rows if row.get("device")})
    content = {
        "study": cells[0].study,
        "profile": cells[0].profile,
        "study_hash": study_hash(cells),
        "trials": len(cells),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": now["commit"],
        "dirty": now["dirty"],
        "ablate": now["ablate"],
        "code": code(),
        "versions": now["versions"],
        "platform": now["platform"],
        "processor": now["processor"],
        "devices": devices,
        **record,
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in content.items()]
    text = "\n".join(["{", *lines, f'"format": {FORMAT}', "}", ""])
    write_atomic(folder / "meta.json", text)
    attributes = folder.parent / ".gitattributes"
    if not attributes.exists():
        write_atomic(attributes, ATTRIBUTES)
