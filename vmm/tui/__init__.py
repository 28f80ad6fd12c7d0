"""The screen: a machine, or a recording of one, watched and driven from a terminal.

It runs in a process of its own. What it shows comes from a `Source` (vmm.tui.source): a machine
whose trace is mapped and whose control socket is asked, or the file of a recording.
"""
