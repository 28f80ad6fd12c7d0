"""What stands behind --vsock and --share."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import ConfigError
from vmm.virtio.other_options import ShareOptions, VsockOptions, parse_share, parse_vsock


def test_vsock() -> None:
    assert parse_vsock("3") == VsockOptions(3, None)
    assert parse_vsock("77,unix=/tmp/v.sock") == VsockOptions(77, "/tmp/v.sock")
    assert parse_vsock("4294967294").cid == 4294967294


@pytest.mark.parametrize("text", ["", "2", "4294967295", "x", "3=4", "-3", "٣"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="begins with the guest's address"):
        parse_vsock(text)


def test_share(tmp_path: Path) -> None:
    assert parse_share("/srv/files") == ShareOptions("/srv/files", "files")
    assert parse_share("/srv/files/,tag=x") == ShareOptions("/srv/files/", "x")
    assert parse_share("/").tag == "root"
    assert parse_share(".").tag == Path.cwd().name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "begins with a folder"),
        (",tag=x", "begins with a folder"),
        ("/srv/" + "x" * 40, "longer than 36"),
        ("/srv,tag=" + "ü" * 20, "longer than 36"),
        ("/srv,ro=1", "is none of tag="),
    ],
)
def test_shares_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_share(text)


@given(st.text())
def test_nothing_else_is_raised(text: str) -> None:
    for parse in (parse_vsock, parse_share):
        with contextlib.suppress(ConfigError):
            parse(text)
