"""`Constants`: a kernel argument whose fields are literals to the compiler."""

from numba.cuda import types
from numba.cuda.cudadecl import registry as typing_registry
from numba.cuda.cudaimpl import registry as lowering_registry
from numba.cuda.extending import core_models, register_model, typeof_impl
from numba.cuda.typing.templates import AttributeTemplate


class Constants:
    """A record of ints, bools and floats that the compiler sees as literals (see ../README.md)."""

    def __init__(self, **fields):
        self.fields = fields
        self.__dict__.update(fields)

    def __eq__(self, other):
        return isinstance(other, Constants) and repr(self) == repr(other)

    def __hash__(self):
        return hash(repr(self))

    def __repr__(self):
        return f"Constants({', '.join(f'{k}={v!r}' for k, v in sorted(self.fields.items()))})"


class ConstantsType(types.Type):
    def __init__(self, fields):
        self.fields = dict(fields)
        super().__init__(name=f"Constants({', '.join(f'{k}={v!r}' for k, v in fields)})")


@typeof_impl.register(Constants)
def _typeof_constants(value, context):
    return ConstantsType(tuple(sorted(value.fields.items())))


@register_model(ConstantsType)
class _ConstantsModel(core_models.OpaqueModel):
    """Carries nothing at run time."""


@typing_registry.register_attr
class _ConstantsAttributes(AttributeTemplate):
    key = ConstantsType

    def generic_resolve(self, constants, name):
        value = constants.fields[name]
        return types.float32 if isinstance(value, float) else types.literal(value)


@lowering_registry.lower_getattr_generic(ConstantsType)
def _lower_constant(context, builder, constants, value, name):
    field = constants.fields[name]
    kind = types.float32 if isinstance(field, float) else types.boolean if isinstance(field, bool) else types.intp
    return context.get_constant(kind, field)
