"""Which request made a graph: a client may give one build's result to another as an input.

Owns the memory of that, for provenance; bounded, and each user's own. Does not know builds.
"""

import threading
from collections import OrderedDict
from typing import Final

from kedge.builder.remote import RemoteRequest
from kedge.daemon.peer import Peer
from kedge.model.graph import Edge
from kedge.model.value import replace

_MOST: Final = 500
_LARGEST: Final = 64 << 10  # characters of a request's arguments; larger ones are not kept
_Key = tuple[object, str, int]


class Makers:
    """Requests by the graphs that they came to. Thread-safe."""

    def __init__(self) -> None:
        self._requests: OrderedDict[_Key, RemoteRequest] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, peer: Peer, edge: Edge, request: RemoteRequest) -> None:
        """The request came to the graph."""
        pairs = (*request.told_args, *request.build_args, *request.labels)
        if sum(len(text) for pair in pairs for text in pair) > _LARGEST:
            return
        key = _key(peer, edge)
        # Nothing is kept of what was lent; what the request was in turn given is told two requests deep.
        inputs = tuple(replace(one, edge=None, made_by=one.made_by and _alone(one.made_by)) for one in request.inputs)
        kept = replace(_alone(request), inputs=inputs)
        with self._lock:
            self._requests[key] = kept
            self._requests.move_to_end(key)
            while len(self._requests) > _MOST:
                self._requests.popitem(last=False)

    def find(self, peer: Peer, edge: Edge | None) -> RemoteRequest | None:
        """The request of the same user's that came to the graph last."""
        if edge is None:
            return None
        with self._lock:
            return self._requests.get(_key(peer, edge))


def _key(peer: Peer, edge: Edge) -> _Key:
    return peer.realm, edge.vertex.digest, edge.output


def _alone(request: RemoteRequest) -> RemoteRequest:
    return replace(request, context=None, dockerfile_text=None, inputs=(), outputs=(), root=None, env=())
