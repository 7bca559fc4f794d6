"""`Constants`: a kernel argument that is a record of numbers.

On the GPU their values are literals to the compiler. Here a kernel reads them when it runs and its type has only their
names and kinds, so one machine code serves every plan.
"""

import hashlib

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, models, register_model, unbox

from .context import I32, I64


def _kind(value):
    """What a field is in a kernel; None if it can be no field."""
    if isinstance(value, bool):
        return types.boolean
    return types.int64 if isinstance(value, int) else types.float32 if isinstance(value, float) else None


class ConstantsType(types.Type):
    """The fields' kinds by name, in alphabetical order: that of their 8-byte words."""

    def __init__(self, values):
        self.fields = {name: _kind(values[name]) for name in sorted(values)}
        digest = hashlib.sha256(repr(self.fields).encode()).hexdigest()[:16]
        super().__init__(name=f"Constants({digest})")


class Constants:
    """A record of ints, bools and floats. In a kernel ints are int64, floats float32; in Python plain attributes.

    Records with fields of the same names and kinds share a compiled kernel.
    """

    def __init__(self, **fields):
        for name, value in fields.items():
            if _kind(value) is None:
                raise TypeError(f"Constants takes ints, bools and floats; {name} is {value!r}")
        kind = ConstantsType(fields)
        words = np.array([_word(fields[name]) for name in kind.fields], np.int64)
        self.__dict__.update(fields, _fields=fields, _numba_type_=kind, _words=words, _address=words.ctypes.data)

    def __setattr__(self, name, value):
        raise AttributeError(f"Constants does not change; {name} was set")

    def __eq__(self, other):
        if not isinstance(other, Constants):
            return NotImplemented
        return self._numba_type_ == other._numba_type_ and self._fields == other._fields

    def __hash__(self):
        return hash((self._numba_type_, frozenset(self._fields.items())))

    def __repr__(self):
        return f"Constants({', '.join(f'{k}={v!r}' for k, v in self._fields.items())})"


def _word(value):
    """A field's 8 bytes, of which a bool uses one bit and a float the lower half."""
    return int(np.float32(value).view(np.int32)) if isinstance(value, float) else int(value)


@register_model(ConstantsType)
class _ConstantsModel(models.PrimitiveModel):
    """The address of the words."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, I64.as_pointer())


@unbox(ConstantsType)
def _unbox_constants(kind, value, c):
    number = c.pyapi.object_getattr_string(value, "_address")
    address = c.pyapi.long_as_longlong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, I64.as_pointer()))


@infer_getattr
class _ConstantsAttributes(AttributeTemplate):
    key = ConstantsType

    def generic_resolve(self, constants, name):
        return constants.fields.get(name)


@lower_getattr_generic(ConstantsType)
def _lower_field(context, builder, constants, words, name):
    word = builder.load(builder.gep(words, [ir.Constant(I64, list(constants.fields).index(name))]))
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    kind = constants.fields[name]
    if kind == types.float32:
        return builder.bitcast(builder.trunc(word, I32), ir.FloatType())
    return builder.trunc(word, ir.IntType(1)) if kind == types.boolean else word
