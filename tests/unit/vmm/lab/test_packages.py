"""apt's plan, and the retreat to lists of the lab's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vmm.lab import packages
from vmm.lab.tools import LabError

PLAN = """\
Reading package lists...
The following NEW packages will be installed:
  zlib1g
'http://example/pool/zlib1g_1%3a1.2.13_amd64.deb' zlib1g_1%3a1.2.13_amd64.deb 86684 SHA256:00ff
'http://example/pool/media-types_10.0.0_all.deb' media-types_10.0.0_all.deb 26136 MD5Sum:00ff
"""


def test_plan_is_read() -> None:
    debs = packages.parse_plan(PLAN)
    assert [(deb.name, deb.version) for deb in debs] == [
        ("zlib1g", "1:1.2.13"),
        ("media-types", "10.0.0"),
    ]
    assert debs[0].filename == "zlib1g_1%3a1.2.13_amd64.deb"


def test_a_plan_for_nothing_is_empty() -> None:
    assert packages.parse_plan("0 upgraded, 0 newly installed\n") == []


class FakeApt:
    """An apt whose own lists, once updated, have `known` packages; the host's have none."""

    known: tuple[str, ...] = ()
    trouble: LabError | None = None

    def __init__(self, state: Path, *, own_lists: bool) -> None:
        self.own_lists = own_lists

    def update(self) -> LabError | None:
        return self.trouble

    def plan(self, names: Sequence[str]) -> list[packages.Deb]:
        for name in names:
            if not self.own_lists or name not in self.known:
                raise LabError(f"Unable to locate package {name}")
        return [packages.Deb(f"{name}_1_amd64.deb") for name in names]

    def download(self, debs: Sequence[packages.Deb], folder: Path) -> list[Path]:
        return [folder / deb.filename for deb in debs]


def test_own_lists_are_made_where_the_hosts_will_not_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "Apt", FakeApt)
    monkeypatch.setattr(FakeApt, "known", (*packages.BASE, packages.KERNELS[1], "seabios"))
    names = [path.name.split("_")[0] for path in packages.fetch(["seabios"], tmp_path)]
    assert names == [packages.KERNELS[1], *packages.BASE, "seabios"]


def test_an_unknown_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "Apt", FakeApt)
    monkeypatch.setattr(FakeApt, "known", (*packages.BASE, *packages.KERNELS))
    with pytest.raises(LabError, match="Unable to locate package nonesuch"):
        packages.fetch(["nonesuch"], tmp_path)


def test_an_update_that_failed_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "Apt", FakeApt)
    monkeypatch.setattr(FakeApt, "trouble", LabError("no network"))
    with pytest.raises(LabError, match="no network"):
        packages.fetch([], tmp_path)
