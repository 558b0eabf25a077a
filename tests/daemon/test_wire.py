"""What the wire's messages promise to a service of many threads."""

import subprocess
import sys

import pytest

from kedge.daemon.wire import llb, status

# The threads' work: messages inside messages, of which nobody asked for the class by its name. Collections are many,
# and some objects give the interpreter up while they are freed, as a connection of a database does.
_RACE = """
import gc, threading, time
from kedge.daemon.wire import llb

class Slow:
    __slots__ = ()
    def __del__(self):
        time.sleep(0.0005)
        waiting.pop()

waiting = []
data = llb.Op(file={"actions": [{"mkdir": {"owner": {"user": {"byID": 1}}}}]}).SerializeToString()
gc.set_threshold(25, 2, 2)
stop = time.monotonic() + 3

def work():
    count = 0
    while time.monotonic() < stop:
        if len(waiting) < 6:
            waiting.append(1)
            held = [Slow()]
            held.append(held)
            del held
        for action in llb.Op.FromString(data).file.actions:
            action.mkdir.owner.user
        count += 1
        if not count % 16:
            gc.collect()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_every_message_has_its_class_before_a_thread_asks_and_keeps_it():
    code = """
import gc
from importlib.resources import files
from kedge.daemon import wire
from google.protobuf import descriptor_pb2, message

def names(prefix, types):
    for one in types:
        yield f"{prefix}.{one.name}"
        yield from names(f"{prefix}.{one.name}", one.nested_type)

data = files(wire).joinpath("descriptors.binpb").read_bytes()
expected = set()
for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
    expected |= set(names(file.package, file.message_type))
gc.collect()
made = {kind.DESCRIPTOR.full_name for kind in message.Message.__subclasses__()}
assert len(expected) > 200, len(expected)
assert expected <= made, expected - made
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_threads_may_meet_at_a_message_nobody_named():
    done = subprocess.run([sys.executable, "-c", _RACE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_value_of_an_enum_is_an_attribute_and_a_missing_name_is_told():
    assert llb.MountType.Value("SECRET") == llb.SECRET
    with pytest.raises(AttributeError, match="has no Nothing"):
        _ = status.Nothing
