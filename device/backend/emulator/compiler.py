"""`@kernel` and `@function` for the host's threads: a kernel and all it calls become one LLVM module, optimised once.

Left alone, Numba optimises and emits every function for itself, its callees inlined, before it does so again for each
caller. Most of the time would go there. A device function is lowered only, and the kernel's module links them all.
"""

from llvmlite import binding
from numba import njit, types
from numba.core import errors, ir, ir_utils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering
from numba.core.untyped_passes import IRProcessing

# No reference counts, as on the GPU: faster, and a function that returns an array it was not given compiles on neither.
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "_nrt": False, "no_cfunc_wrapper": True}


class _Part(JITCodeLibrary):
    """A device function's LLVM code, for others to link: never machine code of its own."""

    def _optimize_functions(self, ll_module):
        """Leaves that to the whole."""
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self):
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == binding.Linkage.external:
                function.linkage = "linkonce_odr"  # several callers may bring it; one that inlined it may drop it
        self._shared_module = self._final_module
        self._finalized = True

    @property
    def parts(self):
        """Itself and every library that it needs, directly or not: what a caller links."""
        return [self, *dict.fromkeys(self._linking_libraries)]


@register_pass(mutates_CFG=False, analysis_only=True)
class _CheckLocals(FunctionPass):
    """Refuses what only a GPU would: an array of `local` of which the size is computed, be it from constants."""

    _name = "check_locals"

    def __init__(self):
        super().__init__()

    def run_pass(self, state):
        for block in state.func_ir.blocks.values():
            for call in block.find_exprs("call"):
                callee = ir_utils.guard(ir_utils.get_definition, state.func_ir, call.func)
                if isinstance(callee, ir.Global | ir.FreeVar) and getattr(callee.value, "_name", "") == "local":
                    count = ir_utils.guard(ir_utils.get_definition, state.func_ir, call.args[0]) if call.args else None
                    if isinstance(count, ir.Expr) and count.op in ("binop", "unary", "call"):
                        rule = "a number, a module's, or a field of Constants, not computed"
                        raise errors.TypingError(f"the count of local() must be a constant: {rule}", loc=call.loc)
        return False


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "device_function_lowering"

    def run_pass(self, state):
        part = state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        part.finalize()
        state.cr = state.cr._replace(cfunc=part)  # the key under which callers find this signature
        state.targetctx.insert_user_function(part, state.cr.fndesc, part.parts)
        return True


class _KernelCompiler(CompilerBase):
    def define_pipelines(self):
        passes = self._passes()
        passes.finalize()
        return [passes]

    def _passes(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_CheckLocals, IRProcessing)
        return passes


class _PartCompiler(_KernelCompiler):
    def _passes(self):
        passes = super()._passes()
        passes.add_pass_after(_PartLowering, NativeLowering)
        passes.passes = [each for each in passes.passes if each[0] is not NativeLowering]
        return passes


class DeviceFunction(CPUDispatcher):
    """A function that kernels call; one code serves all literals that it is called with."""

    def __init__(self, py_func, locals=None, targetoptions=OPTIONS, pipeline_class=_PartCompiler):
        options = {"nopython": True, "no_cpython_wrapper": True, **targetoptions}
        super().__init__(py_func, locals or {}, options, pipeline_class)

    def get_call_template(self, args, kws):
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)

    def add_overload(self, cres):
        self.overloads[tuple(cres.signature.args)] = cres  # and nothing that Python could call


kernel = njit(pipeline_class=_KernelCompiler, **OPTIONS)
function = DeviceFunction
