"""Which loops of a kernel the compilers for GPUs may unroll: the marks in Numba's LLVM IR."""

import re

import pytest

from shmemtp.device.backend.gpu.loops import keep_rolled

# A `for` loop, then a `while` loop; Python before 3.12 tests a `while` loop's condition again at its end.
HEAD = """define i32 @"f"()
{
entry:
  %"$10for_iter.3" = alloca i1
  br label %"B0"
B0:
  br label %"B10"
B10:
  br i1 %".1", label %"B14", label %"B40"
B14:
  br label %"B10"
B40:
"""
WHILE = {
    "a jump": '  br i1 %".2", label %"B44", label %"B60"\nB44:\n  br label %"B40"\nB60:\n  ret i32 0\n}',
    "a condition": '  br label %"B44"\nB44:\n  br i1 %".2", label %"B44", label %"B60"\nB60:\n  ret i32 0\n}',
}


@pytest.mark.parametrize("end", WHILE)
def test_for_loops_may_be_unrolled_in_full_and_while_loops_not(end):
    marked = keep_rolled(HEAD + WHILE[end])
    loops = re.findall(r"^  br .*, !llvm.loop !(\d+)$", marked, re.M)
    rules = dict(re.findall(r'^!(\d+) = !\{!"([\w.]+)"\}$', marked, re.M))
    found = [rules[re.search(rf"^!{loop} = distinct !{{!{loop}, !(\d+)}}$", marked, re.M)[1]] for loop in loops]
    assert found == ["llvm.loop.unroll.runtime.disable", "llvm.loop.unroll.disable"]


def test_a_functions_loops_are_its_own():
    """The same offset is another loop's in the next function."""
    marked = keep_rolled(HEAD + "  ret i32 0\n}\n" + HEAD.replace("for_iter", "load_attr") + "  ret i32 0\n}")
    assert re.findall(r'"llvm.loop.unroll.([\w.]+)"', marked) == ["runtime.disable", "disable"]
