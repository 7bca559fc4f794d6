"""`Constants`: a kernel argument whose fields are literals to the compiler."""

import hashlib

from numba import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, models, register_model, unbox


class ConstantsType(types.Type):
    """Carries the values. Its name is made of them, so an equal record in another process has an equal type."""

    def __init__(self, fields):
        self.fields = dict(fields)
        digest = hashlib.sha256(repr(sorted(self.fields.items())).encode()).hexdigest()[:16]
        super().__init__(name=f"Constants({digest})")


class Constants:
    """A record of ints, bools and floats that the compiler sees: `shape.hidden` is a literal in a kernel.

    Floats are float32 there. Equal records share a compiled kernel. In Python the fields are plain attributes.
    """

    def __init__(self, **fields):
        for name, value in fields.items():
            if not isinstance(value, (bool, int, float)):
                raise TypeError(f"Constants takes ints, bools and floats; {name} is {value!r}")
        self.__dict__.update(fields)
        self._numba_type_ = ConstantsType(fields)

    def __setattr__(self, name, value):
        if name != "_numba_type_" or name in self.__dict__:
            raise AttributeError(f"Constants does not change; {name} was set")
        super().__setattr__(name, value)

    def __eq__(self, other):
        return isinstance(other, Constants) and self._numba_type_ == other._numba_type_

    def __hash__(self):
        return hash(self._numba_type_)

    def __repr__(self):
        return f"Constants({', '.join(f'{k}={v!r}' for k, v in self._numba_type_.fields.items())})"


@register_model(ConstantsType)
class _ConstantsModel(models.OpaqueModel):
    """Nothing at run time."""


@unbox(ConstantsType)
def _unbox_constants(kind, value, c):
    return NativeValue(c.context.get_dummy_value())


def _field_type(value):
    return types.float32 if isinstance(value, float) else types.literal(value)


@infer_getattr
class _ConstantsAttributes(AttributeTemplate):
    key = ConstantsType

    def generic_resolve(self, constants, name):
        if name in constants.fields:
            return _field_type(constants.fields[name])


@lower_getattr_generic(ConstantsType)
def _lower_field(context, builder, constants, value, name):
    field = constants.fields[name]
    kind = _field_type(field)
    return context.get_constant(getattr(kind, "literal_type", kind), field)
