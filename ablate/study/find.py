"""Where a study stands: a file, or the bare name of one in `studies/` or shipped with ablate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ablate.errors import StudyError, unknown

_SUFFIXES = (".yaml", ".yml")


def shipped_folder() -> Path:
    """The folder of the studies that come with ablate, in a checkout or an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "studies"
    return inside if inside.is_dir() else package.parent / "studies"


def shipped_studies() -> dict[str, Path]:
    """The shipped studies: name -> file, sorted by name."""
    return {path.stem: path for path in _studies_in(shipped_folder())}


def find_study(text: str | Path) -> Path:
    """The file of a study.

    Args:
        text: a path, or a bare name: looked up in `./studies/`, then among the shipped ones.

    Raises:
        StudyError: there is none; says the nearest.
    """
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise StudyError(f"{text}: is a folder; a study is a YAML file")
    known = {**shipped_studies(), **{p.stem: p for p in _studies_in(Path("studies"))}}
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        beside = [str(p) for p in _studies_in(path.parent)]
        raise StudyError(
            f"{text}: no such file; "
            + unknown("study", str(text), beside or [str(p) for p in known.values()])
        )
    if str(text) not in known:
        raise StudyError(unknown("study", str(text), sorted(known)))
    return known[str(text)]


def _studies_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES)
