"""Keeps LLVM and the assembler from unrolling loops whose trip count they do not know.

They copy such a loop's body four or eight times and add a remainder. In a persistent kernel that runs each phase once
a layer this makes code that no longer fits the instruction cache, and every layer fetches it anew. `for` loops with a
constant trip count are still unrolled in full; `while` loops stay loops. Numba has no way to say so; this marks the
back edges in the LLVM IR it hands over: a `for` loop's is a plain jump, a `while` loop's depends on its condition.
"""

import re

_BLOCK = re.compile(r'^"?B(\d+)[\w.]*"?:')
_JUMP = re.compile(r'^  br label %"?B(\d+)"?$')
_BRANCH = re.compile(r'^  br i1 [^,]+, label %"?B(\d+)"?, label %"?B(\d+)"?$')
_RULES = {"for": "llvm.loop.unroll.runtime.disable", "while": "llvm.loop.unroll.disable"}
_FIRST = 90000  # the number of the first mark: Numba's own are below


def keep_rolled(module: str) -> str:
    """The LLVM module (Numba's text) with each jump to an earlier bytecode offset marked as a loop's."""
    lines: list[str] = []
    marks: list[str] = []
    block = -1
    for line in module.split("\n"):
        label = _BLOCK.match(line)
        if label:
            block = int(label[1])
        elif line.startswith("define"):
            block = -1
        else:
            kind = _loop_of(line, block)
            if kind:
                line += f", !llvm.loop !{_FIRST + len(_RULES) + len(marks)}"
                marks.append(kind)
        lines.append(line)
    numbers = dict(zip(_RULES, range(_FIRST, _FIRST + len(_RULES)), strict=True))
    lines += [f'!{numbers[kind]} = !{{!"{rule}"}}' for kind, rule in _RULES.items()]
    for n, kind in enumerate(marks, _FIRST + len(_RULES)):
        lines.append(f"!{n} = distinct !{{!{n}, !{numbers[kind]}}}")
    return "\n".join(lines)


def _loop_of(line: str, block: int) -> str | None:
    """The kind of loop whose back edge from the block at this offset the line is, if it is one."""
    for kind, pattern in (("for", _JUMP), ("while", _BRANCH)):
        found = pattern.match(line)
        if found and min(map(int, found.groups())) <= block:
            return kind
    return None
