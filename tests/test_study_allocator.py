"""What worker processes are told about memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ablate.study.allocator import large_pages, starting_with_large_pages
from ablate.study.executors import Resources, create_executor


def test_what_the_user_set_is_kept_and_wins() -> None:
    assert large_pages({}) == "glibc.malloc.hugetlb=1"
    assert large_pages({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}) == (
        "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    )
    set_by_user = "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=2"
    assert large_pages({"GLIBC_TUNABLES": set_by_user}) == set_by_user


@pytest.mark.parametrize("before", [None, "glibc.malloc.arena_max=2"])
def test_this_process_s_environment_is_left_as_it_was(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    with starting_with_large_pages():
        assert os.environ["GLIBC_TUNABLES"].endswith("glibc.malloc.hugetlb=1")
    assert os.environ.get("GLIBC_TUNABLES") == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_worker_process_starts_with_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    executor = create_executor("local", Resources(workers=1, trials=1))
    try:
        pid = executor.submit(os.getpid).result()
        started_with = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in started_with
    finally:
        executor.shutdown()
