"""The one thing that pyproject.toml cannot say: the compiled runner, built by cffi.

It is an option (see kvm_bindings/_fastrun_build.py): without a C compiler the build goes on.
"""

from setuptools import setup

setup(cffi_modules=["kvm_bindings/_fastrun_build.py:ffibuilder"])
