"""What `vmm trace --help` says beside the options."""

from __future__ import annotations

__all__ = ["DESCRIPTION", "DIFF", "EPILOG", "EXPORT", "PLOT", "SHOW", "SUMMARY"]

DESCRIPTION = """\
Look at a trace: what the guest's processors did, exit by exit, as 'vmm run IMAGE --trace FILE'
kept it. No KVM is needed, and the machine may still be running.
"""

EPILOG = """\
examples:
  vmm run kernel.elf --trace run.vtrace         keep every exit
  vmm trace summary run.vtrace                  which exits, how many, how long
  vmm trace show run.vtrace --device com1       exit by exit, in the words of the registers
  vmm trace export run.vtrace run.json          a timeline for ui.perfetto.dev
  vmm trace diff good.vtrace bad.vtrace         where two runs part
  vmm trace plot run.vtrace exits.svg           a picture

'vmm trace COMMAND --help' explains each. From Python: vmm.trace.load("run.vtrace").
"""

SUMMARY = (
    """\
Count exits by address, device or reason, with how long the guest ran before (median)
and how long they took to be handled (median, 95 and 99 % and the longest).
""",
    """\
examples:
  vmm trace summary run.vtrace
  vmm trace summary run.vtrace --by device
  vmm trace summary run.vtrace --reason MMIO --since 2s
""",
)

SHOW = (
    """\
Print exits in the order of time: when it came (seconds from the beginning of the trace), which
processor, what went over the bus and whose registers it was, how long the guest ran before and how
long the exit took to be handled.
""",
    """\
examples:
  vmm trace show run.vtrace --last 20
  vmm trace show run.vtrace --port 0x3f8-0x3ff --write
  vmm trace show run.vtrace --device rtc --since 1.5s --until 1.6s
  vmm trace show run.vtrace --slower 100us
""",
)

EXPORT = (
    """\
Write a trace for other programs:

  chrome  the Trace Event Format, for ui.perfetto.dev and chrome://tracing: a track for each
          processor, a slice for each exit while it was handled
  csv     one line an exit; addresses and values in hexadecimal
  sqlite  tables exits, events, devices and info; addresses are signed 64-bit numbers
""",
    """\
examples:
  vmm trace export run.vtrace run.json
  vmm trace export run.vtrace - --to csv --device com1 | head
  vmm trace export run.vtrace run.sqlite
  sqlite3 run.sqlite "select device, count(*), sum(handler_ns) from exits group by device"
""",
)

DIFF = (
    """\
Say where two runs part: for each processor the first exit that is another one (times do not
count), what came before and after it, and which exits one run has more of.
""",
    """\
exit status:
  0  the same exits in the same order
  1  they differ
  2  one of them cannot be read

examples:
  vmm trace diff good.vtrace bad.vtrace
""",
)

PLOT = (
    """\
Draw a trace: exits over time, a histogram of how long they took to be handled, or a heat map of
ports and addresses over time. Needs Matplotlib: pip install 'glassvm[plot]'.
""",
    """\
examples:
  vmm trace plot run.vtrace exits.png
  vmm trace plot run.vtrace latency.svg --kind latency --device com1
  vmm trace plot run.vtrace ports.png --kind ports
""",
)
