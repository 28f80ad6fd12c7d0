"""Why a guest died, in words: pure functions over a CPU state and guest memory.

explanation = explain(Death(kind="shutdown", cpu=state, read=memory.read, exits=12))
print(explanation.text())
"""

from vmm.explain.cause import Cause
from vmm.explain.death import Death, Kind, OtherVcpu, SeenExit
from vmm.explain.page_walk import PageWalk, walk
from vmm.explain.report import Explanation, Section, explain

__all__ = [
    "Cause",
    "Death",
    "Explanation",
    "Kind",
    "OtherVcpu",
    "PageWalk",
    "Section",
    "SeenExit",
    "explain",
    "walk",
]
