from __future__ import annotations

import pytest

from vmm.errors import ConfigError
from vmm.identity import Identity

UUID = "12345678-9abc-def0-1122-334455667788"


def test_nothing_is_set():
    assert Identity.read([]) == Identity({}, ())


def test_what_has_no_type_belongs_to_the_system():
    read = Identity.read([f"serial=S-17,uuid={{{UUID.upper()}}}", "type=3,serial=C,asset=a=b,,c"])
    assert read.texts == {
        (1, "serial"): "S-17",
        (1, "uuid"): UUID,
        (3, "serial"): "C",
        (3, "asset"): "a=b,c",
    }


@pytest.mark.parametrize(
    ("text", "asset"), [("a,,", "a,"), ("a,,,,b", "a,,b"), ("a,,,serial=S", "a,"), (",,a", ",a")]
)
def test_commas_that_belong_to_a_value(text, asset):
    assert Identity.read([f"type=3,asset={text}"]).texts[3, "asset"] == asset


def test_strings_add_up():
    read = Identity.read(["type=11,value=a,value=b", "type=11,value=c"])
    assert read == Identity({}, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serial", "'serial' is not NAME=VALUE"),
        ("", "is not NAME=VALUE"),
        ("serial=", "serial is empty"),
        ("serial=a\tb", "cannot be printed"),
        ("colour=red", "the system has no 'colour'; there are manufacturer, product"),
        ("type=17,serial=x", r"type 17 cannot be set; there are 0 \(BIOS\), 1 \(system\)"),
        ("type=x,serial=x", "type x cannot be set"),
        ("type=0,serial=x", "the BIOS has no 'serial'"),
        ("uuid=17", "'17' is no UUID, such as 00000000-"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=f"^--smbios .*{message}"):
        Identity.read([text])
