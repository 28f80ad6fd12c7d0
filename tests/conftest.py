"""What every test shares: a last line that says what was skipped, and the
rules of a format that is written for other programs."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

C_HEADERS = (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"))

# Counts decide, never times.
settings.register_profile("glassvm", deadline=None)
settings.load_profile("glassvm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--replay",
        action="store_true",
        help="record every machine of the KVM tests, and replay it when it is closed",
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[str(reason).removeprefix("Skipped: ")] += 1
    if not skipped:
        terminalreporter.write_line("nothing was skipped")
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.fixture(scope="session")
def chrome_events() -> Callable[[Path], dict[str, list[dict[str, Any]]]]:
    """Read a file as Chrome and Perfetto do, holding it to their rules; its events by phase.

    Spec: "Trace Event Format", JSON Object Format, Event Descriptions.
    """

    def wrong(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def read(path: Path) -> dict[str, list[dict[str, Any]]]:
        whole = json.loads(path.read_text(encoding="utf-8"), parse_constant=wrong)
        assert whole["displayTimeUnit"] in ("ms", "ns")
        found: dict[str, list[dict[str, Any]]] = {"M": [], "X": [], "i": []}
        for event in whole["traceEvents"]:
            found[event["ph"]].append(event)  # a phase that we do not write is a KeyError
            assert isinstance(event["name"], str)
            assert event["name"]
            assert type(event["pid"]) is type(event["tid"]) is int
            assert isinstance(event["args"], dict)
            if event["ph"] == "M":
                continue
            assert isinstance(event["cat"], str)
            assert event["ts"] >= 0
        known = {"process_name": str, "thread_name": str, "thread_sort_index": int}
        for event in found["M"]:
            (value,) = event["args"].values()
            assert event["args"].keys() == {event["name"].partition("_")[2]}
            assert type(value) is known[event["name"]]
        assert all(event["s"] in "gpt" for event in found["i"])
        assert all(event["dur"] >= 0 for event in found["X"])
        tracks = {(event["pid"], event["tid"]) for event in found["X"]}
        for track in tracks:
            slices = [e for e in found["X"] if (e["pid"], e["tid"]) == track]
            # Slices of one track nest, or lie one behind the other as ours do.
            assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-6 for a, b in pairwise(slices))
        named = {(e["pid"], e["tid"]) for e in found["M"] if e["name"] == "thread_name"}
        assert tracks <= named
        return found

    return read


@pytest.fixture(scope="session")
def c_values(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Sequence[str], Sequence[tuple[str, str]]], list[int | None]]:
    """What the C compiler makes of expressions over headers, each with a macro that must be
    defined ("" for none); None where it is not. Skips where nothing can be compiled."""
    cffi = pytest.importorskip("cffi", reason="cffi is not installed")
    pytest.importorskip("setuptools", reason="setuptools is not installed, cffi compiles with it")
    if platform.machine() != "x86_64":
        pytest.skip("the layouts are those of x86-64")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")

    def evaluate(
        headers: Sequence[str], expressions: Sequence[tuple[str, str]]
    ) -> list[int | None]:
        for header in headers:
            if not any((folder / header).exists() for folder in C_HEADERS):
                pytest.skip(f"no <{header}> (Debian: linux-libc-dev)")
        rows = []
        for expression, guard in expressions:
            row = f"{{1, (long long)({expression})}},"
            rows.append(f"#ifdef {guard}\n{row}\n#else\n{{0, 0}},\n#endif" if guard else row)
        builder = cffi.FFI()
        builder.cdef("struct fact { int known; long long value; }; extern struct fact facts[];")
        folder = tmp_path_factory.mktemp("header")
        name = f"_facts_{folder.name}"
        builder.set_source(
            name,
            "#include <stddef.h>\n"
            + "".join(f"#include <{header}>\n" for header in headers)
            + "struct fact { int known; long long value; };\n"
            + "struct fact facts[] = {\n"
            + "\n".join(rows)
            + "\n};\n",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # setuptools' own
            path = builder.compile(tmpdir=str(folder))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        facts = [module.lib.facts[number] for number in range(len(rows))]
        return [fact.value if fact.known else None for fact in facts]

    return evaluate
