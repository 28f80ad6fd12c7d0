"""How `kvm_bindings._fastrun` is built, the compiled runner; setup.py asks here.

It is an option: without a C compiler the installation goes on, and the runner that goes through
ctypes is used.
"""

from __future__ import annotations

from setuptools import Extension

VERSION = 3
"""`kvm_bindings.runner.VERSION`, which has what it is for. Rises with each change of
`_fastrun.c`."""

EXTENSION = Extension(
    "kvm_bindings._fastrun",
    ["kvm_bindings/_fastrun.c"],
    define_macros=[("VERSION", str(VERSION))],
    py_limited_api=True,
    optional=True,
)
