"""The one thing that pyproject.toml cannot say: the compiled runner."""

from runpy import run_path

from setuptools import setup

setup(ext_modules=[run_path("kvm_bindings/_fastrun_build.py")["EXTENSION"]])
