"""Keeps LLVM from unrolling loops whose trip count it does not know.

It copies such a loop's body four or eight times and adds a remainder. In a persistent kernel that runs each phase once
a layer this makes code that no longer fits the instruction cache, and every layer fetches it anew. Loops with a
constant trip count are still unrolled in full. Numba has no way to say so; this marks the back edges in the LLVM IR it
hands over.
"""

import re

_BLOCK = re.compile(r'^"?B(\d+)[\w.]*"?:')
_JUMP = re.compile(r'^  br .*label %"?B(\d+)"?$')


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
            jump = _JUMP.match(line)
            if jump and int(jump[1]) <= block:
                line += f", !llvm.loop !{90000 + len(marks)}"
                marks.append(line)
        lines.append(line)
    rolled = 90000 + len(marks)
    lines += [f"!{n} = distinct !{{!{n}, !{rolled}}}" for n in range(90000, rolled)]
    lines.append(f'!{rolled} = !{{!"llvm.loop.unroll.runtime.disable"}}')
    return "\n".join(lines)
