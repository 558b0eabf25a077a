"""Value classes: the standard `dataclass`, made several times faster to define.

Owns drop-in replacements for `dataclass`, `field`, `fields` and `replace`. The standard decorator compiles six methods
for each class when its module is imported (half a millisecond each; a build imports two hundred such classes) and its
module imports `inspect`; a fully cached build would spend most of its time on that. Here a class gets shared methods,
and its `__init__` is compiled when it has made enough instances for it to pay. Types, checkers and the standard
functions see ordinary dataclasses.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
else:
    from operator import attrgetter

    _MISSING = object()
    _FIELDS, _GETTER = "__kedge_fields__", "__kedge_getter__"
    _FIRST = 16  # instances

    class FrozenInstanceError(AttributeError):
        """A frozen value was to be changed."""

    class Field:
        """One field, by the names the standard class has for these things."""

        __slots__ = ("compare", "default", "default_factory", "init", "name", "repr", "type")

        def __init__(self, default, default_factory, init, repr, compare):
            self.name, self.type = "", None
            self.default, self.default_factory = default, default_factory
            self.init, self.repr, self.compare = init, repr, compare

    def field(*, default=_MISSING, default_factory=_MISSING, init=True, repr=True, compare=True):
        return Field(default, default_factory, init, repr, compare)

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, order=False):
        if cls is None:
            return lambda cls: _define(cls, frozen, slots, eq, order)
        return _define(cls, frozen, slots, eq, order)

    def fields(value):
        """The fields of a value or a value class, in order."""
        own = getattr(value, _FIELDS, None)
        if own is None:
            from dataclasses import fields as standard

            return standard(value)
        return tuple(own.values())

    def is_dataclass(value):
        return hasattr(value, _FIELDS) or hasattr(value, "__dataclass_fields__")

    def replace(value, /, **changes):
        own = getattr(value, _FIELDS, None)
        if own is None:
            from dataclasses import replace as standard

            return standard(value, **changes)
        for name, one in own.items():
            if not one.init:
                if name in changes:
                    raise ValueError(f"field {name} is declared with init=False and cannot be replaced")
            elif name not in changes:
                changes[name] = getattr(value, name)
        return type(value)(**changes)

    # ---- definition --------------------------------------------------------------------------------------------------

    def _define(cls, frozen, slots, eq, order):
        found = _collect(cls)
        body = cls.__dict__
        methods = {_FIELDS: found, "__dataclass_fields__": _Standard(), "__dataclass_params__": _Params(frozen)}
        methods["__match_args__"] = tuple(name for name, one in found.items() if one.init)
        compared = [name for name, one in found.items() if one.compare]
        methods[_GETTER] = _getter(compared)
        if "__init__" not in body:
            methods["__init__"] = _first_inits(found, frozen, hasattr(cls, "__post_init__"))
        if "__repr__" not in body:
            methods["__repr__"] = _repr
        if eq:
            explicit_hash = body.get("__hash__") is not None or ("__hash__" in body and "__eq__" not in body)
            if not explicit_hash:
                methods["__hash__"] = _hash if frozen else None
            if "__eq__" not in body:
                methods["__eq__"] = _eq
        if order:
            methods |= {"__lt__": _lt, "__le__": _le, "__gt__": _gt, "__ge__": _ge}
        if frozen:
            methods |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
            if slots:
                methods |= {"__getstate__": _get_state, "__setstate__": _set_state}
        if slots:
            return _with_slots(cls, found, methods)
        for name, one in found.items():
            if isinstance(body.get(name), Field):
                delattr(cls, name) if one.default is _MISSING else setattr(cls, name, one.default)
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    def _collect(cls):
        found = {}
        for base in cls.__mro__[-1:0:-1]:
            if own := base.__dict__.get(_FIELDS):
                found |= own
            elif standard := base.__dict__.get("__dataclass_fields__"):
                found |= {name: _converted(one) for name, one in standard.items()}
        for name, kind in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063
            if _is_class_variable(kind):
                continue
            default = cls.__dict__.get(name, _MISSING)
            one = default if isinstance(default, Field) else Field(default, _MISSING, True, True, True)
            if isinstance(one.default, (list, dict, set)):
                raise ValueError(f"the mutable default of field {name} would be shared: use default_factory")
            one.name, one.type = name, kind
            found[name] = one
        return found

    def _is_class_variable(kind):
        return "ClassVar" in kind if isinstance(kind, str) else getattr(kind, "__origin__", kind) is ClassVar

    def _converted(standard):
        import dataclasses

        def or_missing(value):
            return _MISSING if value is dataclasses.MISSING else value

        one = Field(or_missing(standard.default), or_missing(standard.default_factory), standard.init, standard.repr,
                    standard.compare)  # fmt: skip
        one.name, one.type = standard.name, standard.type
        return one

    def _with_slots(cls, found, methods):
        inherited = {name for base in cls.__mro__[1:-1] for name in _names(base.__dict__.get("__slots__", ()))}
        body = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
        for name in found:
            body.pop(name, None)
        body["__slots__"] = tuple(name for name in found if name not in inherited)
        made = type(cls)(cls.__name__, cls.__bases__, body | methods)
        made.__qualname__ = cls.__qualname__
        return made

    def _names(slots):
        return (slots,) if isinstance(slots, str) else tuple(slots)

    def _getter(names):
        """What gives the compared fields as a tuple."""
        if len(names) == 1:
            get = attrgetter(*names)
            return staticmethod(lambda value: (get(value),))
        return staticmethod(attrgetter(*names) if names else lambda value: ())

    # ---- instances ---------------------------------------------------------------------------------------------------

    def _first_inits(found, frozen, post):
        """Stands for `__init__` for the first instances; then one that is compiled takes its place.

        Compiling costs as much as thirty instances made by this, and most classes of a cached build have fewer.
        """
        left = _FIRST

        def __init__(self, /, *arguments, **given):
            nonlocal left
            left -= 1
            if left < 0 or not _filled(self, found, frozen, arguments, given):
                cls = next(base for base in type(self).__mro__ if base.__dict__.get(_FIELDS) is found)
                cls.__init__ = _make_init(cls)
                cls.__init__(self, *arguments, **given)
            elif post:
                self.__post_init__()

        return __init__

    def _filled(self, found, frozen, arguments, given):
        """Give the fields their values; False if the arguments do not fit: the compiled one says in words how."""
        put = object.__setattr__ if frozen else setattr
        positional, named = iter(arguments), 0
        for name, one in found.items():
            value = next(positional, _MISSING) if one.init else _MISSING
            if value is _MISSING and one.init and name in given:
                value, named = given[name], named + 1
            if value is _MISSING:
                value = one.default if one.default_factory is _MISSING else one.default_factory()
            if value is not _MISSING:
                put(self, name, value)
            elif one.init:
                return False
        return named == len(given) and next(positional, _MISSING) is _MISSING

    def _make_init(cls):
        space = {"_set": object.__setattr__, "_missing": _MISSING}
        parameters, lines, defaulted = [], [], False
        frozen = cls.__dict__["__dataclass_params__"].frozen
        for name, one in getattr(cls, _FIELDS).items():
            value = name
            if one.default is not _MISSING:
                space[f"_d_{name}"] = one.default
                parameters += [f"{name}=_d_{name}"] if one.init else []
                value = name if one.init else f"_d_{name}"
            elif one.default_factory is not _MISSING:
                space[f"_f_{name}"] = one.default_factory
                parameters += [f"{name}=_missing"] if one.init else []
                value = f"_f_{name}() if {name} is _missing else {name}" if one.init else f"_f_{name}()"
            elif one.init:
                if defaulted:
                    raise TypeError(f"field {name} without a default follows one that has a default")
                parameters.append(name)
            else:
                continue
            defaulted = defaulted or (one.init and "=" in parameters[-1])
            lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            lines.append("self.__post_init__()")
        text = f"def __init__(self, {', '.join(parameters)}):\n " + ("\n ".join(lines) or "pass")
        exec(text, space)
        made = space["__init__"]
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        return made

    # ---- shared methods ----------------------------------------------------------------------------------------------

    def _repr(self):
        shown = (f"{name}={getattr(self, name)!r}" for name, one in getattr(self, _FIELDS).items() if one.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        get = self.__kedge_getter__
        return get(self) == get(other)

    def _hash(self):
        return hash(self.__kedge_getter__(self))

    def _ordered(compare):
        def method(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            get = self.__kedge_getter__
            return compare(get(self), get(other))

        return method

    _lt, _le = _ordered(lambda a, b: a < b), _ordered(lambda a, b: a <= b)
    _gt, _ge = _ordered(lambda a, b: a > b), _ordered(lambda a, b: a >= b)

    def _refuse_set(self, name, value):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _get_state(self):
        return [getattr(self, name) for name in getattr(self, _FIELDS)]

    def _set_state(self, state):
        for name, value in zip(getattr(self, _FIELDS), state, strict=True):
            object.__setattr__(self, name, value)

    class _Params:
        """What the standard decorator looks for in a base class."""

        __slots__ = ("frozen",)

        def __init__(self, frozen):
            self.frozen = frozen

    class _Standard:
        """`__dataclass_fields__`, made when a standard function asks for it."""

        def __get__(self, value, owner):
            import dataclasses

            def standard(one):
                options = {"init": one.init, "repr": one.repr, "compare": one.compare, "kw_only": False}
                if one.default is not _MISSING:
                    options["default"] = one.default
                if one.default_factory is not _MISSING:
                    options["default_factory"] = one.default_factory
                made = dataclasses.field(**options)
                made.name, made.type, made._field_type = one.name, one.type, dataclasses._FIELD
                return made

            return {name: standard(one) for name, one in getattr(owner, _FIELDS).items()}


__all__ = ["FrozenInstanceError", "dataclass", "field", "fields", "is_dataclass", "replace"]
