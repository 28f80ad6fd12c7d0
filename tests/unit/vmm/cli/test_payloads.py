"""`vmm payloads`."""

from __future__ import annotations

import json

from firmware.payloads import PAYLOADS
from vmm.cli import main


def test_every_payload_has_its_line(capsys):
    assert main(["payloads"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"payload:{name}" for name in PAYLOADS]
    assert all(one.summary in line for one, line in zip(PAYLOADS.values(), lines, strict=True))


def test_json_has_the_same(capsys):
    assert main(["payloads", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"name": name, "summary": one.summary} for name, one in PAYLOADS.items()]
