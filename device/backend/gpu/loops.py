"""Keeps LLVM and the assembler from unrolling loops whose trip count they do not know.

They copy such a loop's body four or eight times and add a remainder. In a persistent kernel that runs each phase once
a layer this makes code that no longer fits the instruction cache, and every layer fetches it anew. `for` loops with a
constant trip count are still unrolled in full; `while` loops stay loops. Numba has no way to say so; this marks the
back edges in the LLVM IR that it hands over. A block's label is its offset in the bytecode, and that of a `for` loop's
head stands in the names of its iterator's variables too.
"""

import re

_BLOCK = re.compile(r'^"?B(\d+)[\w.]*"?:')
_HEAD = re.compile(r'%"\$(\d+)for_iter\.')
_BRANCH = re.compile(r'^  br (?:i1 [^,]+, )?label %"?B(\d+)"?(?:, label %"?B(\d+)"?)?$')
_PREFIXES = 0, 2, 4  # bytes of EXTENDED_ARG before the instruction, at which its block then begins
_FOR, _WHILE = "llvm.loop.unroll.runtime.disable", "llvm.loop.unroll.disable"
_FIRST = 90000  # the number of the first mark: Numba's own are below


def keep_rolled(module: str) -> str:
    """The LLVM module (Numba's text) with each jump to an earlier bytecode offset marked as a loop's."""
    lines: list[str] = []
    rules: list[str] = []
    heads: set[int] = set()
    block = -1
    for line in module.split("\n"):
        label = _BLOCK.match(line)
        if label:
            block = int(label[1])
        elif line.startswith("define"):
            block, heads = -1, set()
        else:
            heads |= {int(offset) - prefix for offset in _HEAD.findall(line) for prefix in _PREFIXES}
            branch = _BRANCH.match(line)
            back = [int(target) for target in branch.groups() if target and int(target) <= block] if branch else []
            if back:
                line += f", !llvm.loop !{_FIRST + 2 * len(rules)}"
                rules.append(_FOR if back[0] in heads else _WHILE)
        lines.append(line)
    for n, rule in enumerate(rules):
        loop = _FIRST + 2 * n
        lines += [f"!{loop} = distinct !{{!{loop}, !{loop + 1}}}", f'!{loop + 1} = !{{!"{rule}"}}']
    return "\n".join(lines)
