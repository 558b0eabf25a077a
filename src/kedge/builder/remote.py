"""What a service's client asks of a build: what everybody can, of things that stay on the client's side or came of its
other builds.

Owns the fields of a request that only a service fills. Does not know how a client spells them, nor how a session brings
what is lent.
"""

from kedge.builder.request import BuildRequest
from kedge.model.graph import Edge
from kedge.model.image import ImageConfig
from kedge.model.ops import Pairs
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """A graph that a named context `input:NAME` stands for; `context` and `dockerfile` replace what these names mean.

    `edge` None is an empty root file system; `config` the image's, where it is one. `made_by` is the request whose
    result the graph is, if that is known: provenance tells it.
    """

    name: str
    edge: Edge | None = None
    config: ImageConfig | None = None
    made_by: "RemoteRequest | None" = None


@dataclass(frozen=True, slots=True)
class RemoteRequest(BuildRequest):
    """A request of a service's client. `dockerfile` is then never a path of this machine."""

    context_lent: str = ""  # name under which the session lends the context, which stays where it is
    context_subdirectory: str = ""  # the part of a remote context that is the context
    dockerfile_lent: str = ""  # name under which the session lends the directory that `dockerfile` is in
    inputs: tuple[Input, ...] = ()
    told_args: Pairs = ()  # attributes as the client gave them, which only provenance tells
    root: "RemoteRequest | None" = None  # what the client asked that then asked for this
    ignores: bool = (
        False  # the ignore file of a context that came as a tar counts, as for the classic builder's clients
    )
    keeps_replaced: bool = False  # an image whose last name moves to the one that is built stays, under its id
    vcs: Pairs = ()  # what the client says of its repository: source, revision
