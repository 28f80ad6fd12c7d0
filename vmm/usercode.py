"""Classes of the user's own, from Python files: FILE.py:CLASS.

A file is compiled here each time that it is asked for, and not by the import system, whose cache
takes a file of the same size and second for the same file. What is wrong with it is told in one
line, with the line of the file.
"""

from __future__ import annotations

import itertools
import os
import sys
import types
from pathlib import Path
from types import TracebackType

from vmm.errors import ConfigError

__all__ = ["line_in", "load_class", "refused"]

_numbers = itertools.count()


def load_class(path: str, name: str, option: str) -> type:
    """Run a Python file and give the class `name` in it.

    Args:
        path: the file; modules beside it can be imported while it runs.
        name: the class.
        option: who asks, for messages: "--tracer".

    Raises:
        ConfigError: the file cannot be read, it raises, or it has no such class.
    """
    full = os.path.abspath(path)
    try:
        source = Path(full).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{option} {path}: {why}") from None
    module = types.ModuleType(f"_vmm_user_{next(_numbers)}_{Path(full).stem}")
    module.__file__ = full
    # Dataclasses and pickle look a class's module up there.
    sys.modules[module.__name__] = module
    sys.path.insert(0, os.path.dirname(full))
    try:
        exec(compile(source, full, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise refused(full, error) from error
    finally:
        sys.path.remove(os.path.dirname(full))
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found
    known = [
        other
        for other, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    hint = f"it has {', '.join(known)}" if known else "it has no classes"
    raise ConfigError(f"{option} {path}: no class {name}; {hint}")


def refused(path: str, error: BaseException, what: str = "") -> ConfigError:
    """What to raise where the code in a user's file raised: its line, and what it said."""
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename == path:
        line, said = error.lineno, f"{type(error).__name__}: {error.msg}"
    else:
        line = line_in(path, error.__traceback__)
    where = path if line is None else f"{path}:{line}"
    return ConfigError(" ".join(f"{where}: {what}{': ' if what else ''}{said}".split()))


def line_in(path: str, step: TracebackType | None) -> int | None:
    """The innermost line of a file that a traceback goes through."""
    line = None
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            line = step.tb_lineno
        step = step.tb_next
    return line
