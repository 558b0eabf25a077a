"""The gateway service: a client drives one build, step by step.

Owns the translation of its calls. Each names its build in the metadata, and reaches only builds of its own user. Does
not know how anything is solved.
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import grpc

from kedge.daemon.buildkit.attributes import cache_spec
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.capabilities import FRONTEND_CAPS, LLB_CAPS
from kedge.daemon.buildkit.definition import encode, read_platform
from kedge.daemon.buildkit.errors import ForeignError, Refused, answers, streams
from kedge.daemon.buildkit.given import read_given, write_given
from kedge.daemon.buildkit.jobs import Job, Jobs, Outcome, Result
from kedge.daemon.buildkit.metadata import resolve_image, resolve_layout, resolve_source
from kedge.daemon.buildkit.processes import Conversation
from kedge.daemon.buildkit.reading import read_directory, read_file, stat_file
from kedge.daemon.buildkit.solving import solve_definition, solve_frontend
from kedge.daemon.buildkit.workers import worker_record
from kedge.daemon.peer import Peer
from kedge.daemon.wire import caps, control, gateway
from kedge.storage.tree import Tree

BUILD_ID: Final = "buildkit-controlapi-buildid"


def by_build_id(jobs: Jobs, peer_of: Callable[[grpc.ServicerContext], Peer]) -> Callable[[Any], Bridge]:
    """The drivers of the service's clients: each call names a build of its own user in the metadata."""

    def bridge_of(context: grpc.ServicerContext) -> Bridge:
        ids = [str(value) for key, value in context.invocation_metadata() if key == BUILD_ID]
        if len(ids) != 1:
            raise Refused("no buildid found in context")
        return jobs.get(ids[0], peer_of(context)).bridge

    return bridge_of


class Gateway:
    """LLBBridge, for the drivers that `bridge_of` finds by a call."""

    def __init__(self, bridge_of: Callable[[grpc.ServicerContext], Bridge]) -> None:
        self._bridge_of = bridge_of

    def _bridge(self, context: grpc.ServicerContext) -> Bridge:
        return self._bridge_of(context)

    def _job(self, context: grpc.ServicerContext) -> Job:
        return self._bridge(context).job

    @answers
    def Ping(self, request: Any, context: grpc.ServicerContext) -> Any:
        job = self._job(context)
        return gateway.PongResponse(
            FrontendAPICaps=[caps.APICap(ID=name, Enabled=True) for name in FRONTEND_CAPS],
            LLBCaps=[caps.APICap(ID=name, Enabled=True) for name in LLB_CAPS],
            Workers=[worker_record(job.config)],
        )

    @answers
    def Solve(self, request: Any, context: grpc.ServicerContext) -> Any:
        bridge = self._bridge(context)
        job = bridge.job
        if request.Frontend:
            if request.HasField("Definition") and request.Definition.ByteSize():
                raise Refused("cannot solve with both Definition and Frontend specified")
            attrs, inputs = dict(request.FrontendOpt), dict(request.FrontendInputs)
            result = solve_frontend(job, request.Frontend, attrs, inputs, request.SourcePolicies, bridge)
        else:
            caches = [cache_spec(one.Type, one.Attrs) for one in request.CacheImports]
            result = solve_definition(job, request.Definition, request.SourcePolicies, caches, bridge)
        if request.Evaluate:
            result.evaluate()
        if request.Final:
            bridge.give(Result(result.outcomes, {**_exporter_attributes(request.ExporterAttr), **result.metadata}))
        return _answer(bridge, request, result)

    @answers
    def ReadFile(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._tree(request.Ref, context) as tree:
            data = read_file(tree.fd, request.FilePath, request.Range.Offset, request.Range.Length)
        return gateway.ReadFileResponse(Data=data)

    @answers
    def ReadDir(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._tree(request.Ref, context) as tree:
            return gateway.ReadDirResponse(entries=read_directory(tree.fd, request.DirPath, request.IncludePattern))

    @answers
    def StatFile(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._tree(request.Ref, context) as tree:
            return gateway.StatFileResponse(stat=stat_file(tree.fd, request.Path))

    def _tree(self, ref: str, context: grpc.ServicerContext) -> AbstractContextManager[Tree]:
        bridge = self._bridge(context)
        outcome = bridge.result(ref)
        return outcome.store.layers.mounted(outcome.snapshot) if outcome else bridge.job.store.layers.mounted(())

    @answers
    def Evaluate(self, request: Any, context: grpc.ServicerContext) -> Any:
        Result({"": self._bridge(context).result(request.Ref)}).evaluate()
        return gateway.EvaluateResponse()

    @answers
    def Inputs(self, request: Any, context: grpc.ServicerContext) -> Any:
        return gateway.InputsResponse(Definitions=dict(self._bridge(context).inputs))

    @answers
    def Return(self, request: Any, context: grpc.ServicerContext) -> Any:
        bridge = self._bridge(context)
        if request.HasField("error"):
            bridge.give(ForeignError(request.error))
        else:
            bridge.give(_read_result(bridge, request.result))
        return gateway.ReturnResponse()

    @answers
    def Warn(self, request: Any, context: grpc.ServicerContext) -> Any:
        job = self._job(context)
        warning = control.VertexWarning(
            vertex=request.digest,
            level=request.level or 1,
            short=request.short,
            detail=request.detail,
            url=request.url,
            ranges=request.ranges,
        )
        if request.HasField("info"):
            warning.info.CopyFrom(request.info)
        job.log.add(control.StatusResponse(warnings=[warning]))
        return gateway.WarnResponse()

    @answers
    def ResolveImageConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        job = self._job(context)
        platform = read_platform(request.Platform) if request.HasField("Platform") else None
        if request.ResolverType:
            found = resolve_layout(job, request.Ref, platform, request.StoreID, request.SessionID)
            return gateway.ResolveImageConfigResponse(Ref=found.reference, Digest=found.digest, Config=found.config)
        found = resolve_image(job, request.Ref, platform, request.ResolveMode, request.LogName, request.SourcePolicies)
        return gateway.ResolveImageConfigResponse(Ref=found.reference, Digest=found.digest, Config=found.config)

    @answers
    def ResolveSourceMeta(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.HasField("Source"):
            raise Refused("source is required")
        return resolve_source(self._job(context), request)

    # ---- containers --------------------------------------------------------------------------------------------------

    @answers
    def NewContainer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._bridge(context).containers.create(request)
        return gateway.NewContainerResponse()

    @answers
    def ReleaseContainer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._bridge(context).containers.release(request.ContainerID)
        return gateway.ReleaseContainerResponse()

    @streams
    def ExecProcess(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        conversation = Conversation(self._bridge(context).containers)
        context.add_callback(conversation.leave)
        yield from conversation.serve(requests)

    @answers
    def ReadFileContainer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._bridge(context).containers.get(request.Ref).tree(request.MountIndex) as root:
            data = read_file(root, request.FilePath, request.Range.Offset, request.Range.Length)
        return gateway.ReadFileResponse(Data=data)

    @answers
    def ReadDirContainer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._bridge(context).containers.get(request.Ref).tree(request.MountIndex) as root:
            entries = read_directory(root, request.DirPath, request.IncludePattern)
        return gateway.ReadDirResponse(entries=entries)

    @answers
    def StatFileContainer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._bridge(context).containers.get(request.Ref).tree(request.MountIndex) as root:
            return gateway.StatFileResponse(stat=stat_file(root, request.Path))


def _exporter_attributes(data: bytes) -> dict[str, bytes]:
    """Metadata as old clients give it: values are bytes in Go's JSON."""
    if not data:
        return {}
    try:
        return {str(key): base64.b64decode(value, validate=True) for key, value in json.loads(data).items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise Refused("invalid exporter attributes") from None


def _answer(bridge: Bridge, request: Any, result: Result) -> Any:
    told = gateway.SolveResponse()
    told.result.metadata.update(result.metadata)
    for key, given in result.attestations.items():
        told.result.attestations[key].CopyFrom(write_given(bridge, given))
    if result.is_single:
        outcome = result.outcomes.get("")
        id = bridge.keep(outcome)
        if request.allowResultArrayRef:
            told.result.ref.id = id
            _put_definition(told.result.ref, outcome)
        else:
            told.result.refDeprecated = id
        if not request.allowResultReturn:
            told.ref = id
        return told
    for key, outcome in result.outcomes.items():
        if request.allowResultArrayRef:
            told.result.refs.refs[key].id = bridge.keep(outcome)
            _put_definition(told.result.refs.refs[key], outcome)
        else:
            told.result.refsDeprecated.refs[key] = bridge.keep(outcome)
    return told


def _put_definition(ref: Any, outcome: Outcome | None) -> None:
    if outcome is not None and outcome.target.edge is not None:
        with suppress(UnicodeEncodeError):  # such a graph can only be referred to
            getattr(ref, "def").CopyFrom(outcome.definition or encode(outcome.target.edge))


def _read_result(bridge: Bridge, told: Any) -> Result:
    kind = told.WhichOneof("result")
    outcomes: dict[str, Outcome | None] = {}
    if kind == "refDeprecated":
        outcomes[""] = bridge.result(told.refDeprecated)
    elif kind == "ref":
        outcomes[""] = bridge.result(told.ref.id)
    elif kind == "refs":
        outcomes = {key: bridge.result(ref.id) for key, ref in told.refs.refs.items()}
    elif kind == "refsDeprecated":
        outcomes = {key: bridge.result(id) for key, id in told.refsDeprecated.refs.items()}
    given = {key: read_given(bridge, one) for key, one in told.attestations.items()}
    return Result(outcomes, dict(told.metadata), given)
