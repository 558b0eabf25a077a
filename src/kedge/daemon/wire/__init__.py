"""The messages and services of BuildKit's API, and of what it speaks with its clients.

Owns the `.proto` files beside it and their compiled form, `descriptors.binpb` (made by `scripts/wire.py`): plain
descriptors, read into a pool of our own at import, so that neither another package's idea of the same messages nor the
version of a code generator can get in the way. Does not know what a message means.

Each name below stands for one `.proto` file: `llb.Op` is a message class, `llb.MountType` an enum, `llb.SECRET` one of
its values; `control.services["Control"]` describes a service.
"""

from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

PACKAGE: Final = "kedge/daemon/wire/"


class _File:
    """One `.proto` file: its messages, enums and enum values as attributes."""

    def __init__(self, name: str) -> None:
        self._descriptor = _pool.FindFileByName(name)
        self.services: dict[str, Any] = dict(self._descriptor.services_by_name)
        vars(self).update(
            (one.name, _classes[one.full_name]) for one in self._descriptor.message_types_by_name.values()
        )

    def __getattr__(self, name: str) -> Any:
        found: Any
        if name in self._descriptor.enum_types_by_name:
            found = enum_type_wrapper.EnumTypeWrapper(self._descriptor.enum_types_by_name[name])
        else:
            found = next(
                (
                    enum.values_by_name[name].number
                    for enum in self._descriptor.enum_types_by_name.values()
                    if name in enum.values_by_name
                ),
                None,
            )
            if found is None:
                raise AttributeError(f"{self._descriptor.name} has no {name}")
        setattr(self, name, found)
        return found


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, Any]]:
    """The pool, and the class of each message in it by the message's full name.

    All classes are made here, by one thread, and kept, also those that nobody names. protobuf would make a class when a
    message is first met inside another and free it with a later collection; two threads that do so at once leave a
    freed class in its cache (`PyUpb_MessageMeta_DoCreateClass`, protobuf 7.36), and the process crashes.
    """
    pool = descriptor_pool.DescriptorPool()
    data = files(__package__).joinpath("descriptors.binpb").read_bytes()
    names = []
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
        names.append(file.name)
    messages = _with_inner(one for name in names for one in pool.FindFileByName(name).message_types_by_name.values())
    return pool, {one.full_name: message_factory.GetMessageClass(one) for one in messages}


def _with_inner(messages: Iterable[Any]) -> Iterator[Any]:
    """Descriptors of messages, and of those declared in them; a map's entries are such."""
    for message in messages:
        yield message
        yield from _with_inner(message.nested_types)


_pool, _classes = _load()

auth = _File(PACKAGE + "auth.proto")
caps = _File(PACKAGE + "caps.proto")
content = _File(PACKAGE + "content.proto")
control = _File(PACKAGE + "control.proto")
errdefs = _File(PACKAGE + "errdefs.proto")
exporter = _File(PACKAGE + "exporter.proto")
filesync = _File(PACKAGE + "filesync.proto")
fsutil = _File(PACKAGE + "fsutil_wire.proto")
fsutil_stat = _File(PACKAGE + "fsutil_stat.proto")
gateway = _File(PACKAGE + "gateway.proto")
health = _File(PACKAGE + "health.proto")
llb = _File(PACKAGE + "llb.proto")
policy = _File(PACKAGE + "policy.proto")
policysession = _File(PACKAGE + "policysession.proto")
secrets = _File(PACKAGE + "secrets.proto")
sshforward = _File(PACKAGE + "sshforward.proto")
status = _File(PACKAGE + "status.proto")
upload = _File(PACKAGE + "upload.proto")
worker = _File(PACKAGE + "worker.proto")
any_message = _File("google/protobuf/any.proto")
timestamp = _File("google/protobuf/timestamp.proto")


def message_class(service: Any, method: str, side: str) -> Any:
    """The class of a method's `input` or `output`."""
    found = service.methods_by_name[method]
    return _classes[(found.input_type if side == "input" else found.output_type).full_name]
