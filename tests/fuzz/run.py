"""Run every fuzzer of this folder for some time, and say what was found.

    python tests/fuzz/run.py [SECONDS_EACH]

Each `fuzz_*.py` gets SECONDS_EACH seconds (60 unless given). An input that breaks a rule is kept
in build/fuzz/, and the exit status is 1; `python tests/fuzz/fuzz_NAME.py FILE` runs it again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FINDINGS = FOLDER.parents[1] / "build" / "fuzz"
DEFAULT_SECONDS = 60
GRACE_S = 120
"""How much longer than its time a fuzzer may take, to start and to end."""
SLOWEST_INPUT_S = 10


def fuzz(script: Path, seconds: int) -> bool:
    """Run one fuzzer; return whether it found nothing."""
    name = script.stem
    print(f"{name}: {seconds} s ...", flush=True)
    began = time.monotonic()
    before = set(FINDINGS.glob(f"{name}-*"))
    log = FINDINGS / f"{name}.log"
    with log.open("wb") as output:
        try:
            status = subprocess.run(
                [
                    *(sys.executable, str(script), f"-max_total_time={seconds}"),
                    *(f"-timeout={SLOWEST_INPUT_S}", f"-artifact_prefix={FINDINGS}/{name}-"),
                    "-print_final_stats=1",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + GRACE_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: does not end; the log is {log}")
            return False
    text = log.read_text(errors="replace")
    inputs = re.findall(r"stat::number_of_executed_units: +(\d+)", text)
    took = time.monotonic() - began
    if status == 0 and inputs:
        print(f"{name}: nothing found in {int(inputs[-1]):,} inputs and {took:.0f} s", flush=True)
        return True
    print("\n".join(text.splitlines()[-40:]))
    for path in sorted(set(FINDINGS.glob(f"{name}-*")) - before):
        print(f"{name}: run it again with: python {script} {path}")
    print(f"{name}: failed with status {status} after {took:.0f} s; the log is {log}", flush=True)
    return False


def main() -> int:
    """Run all of them; return 0 if nothing was found, 1 if something was, 2 for wrong use."""
    text = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT_SECONDS)
    if len(sys.argv) > 2 or not text.isdecimal() or int(text) < 1:
        print(f"{sys.argv[0]}: give the seconds for each fuzzer, for example 60", file=sys.stderr)
        return 2
    if find_spec("atheris") is None:
        print("atheris is missing: pip install 'glassvm[fuzz]'", file=sys.stderr)
        return 2
    FINDINGS.mkdir(parents=True, exist_ok=True)
    # Every one of them runs, whatever the first has found.
    clean = [fuzz(script, int(text)) for script in sorted(FOLDER.glob("fuzz_*.py"))]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
