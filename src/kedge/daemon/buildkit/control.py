"""The control service: what buildctl and buildx call first.

Owns the translation of its calls. Does not know what any of them does.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.errors import Refused, also_tell, answers, status_message, streams, told_as
from kedge.daemon.buildkit.exporting import export
from kedge.daemon.buildkit.history import History, HistoryEvent
from kedge.daemon.buildkit.jobs import Job, Jobs
from kedge.daemon.buildkit.solving import exporters, solve_definition, solve_frontend
from kedge.daemon.buildkit.usage import prune, usage_records
from kedge.daemon.buildkit.workers import version_message, worker_record
from kedge.daemon.peer import Peer
from kedge.daemon.sessions.registry import Sessions
from kedge.daemon.wire import control
from kedge.model.errors import KedgeError
from kedge.storage.store import Store

Log = Callable[[str], None]


class Control:
    """moby.buildkit.v1.Control."""

    def __init__(
        self,
        config: ServiceConfig,
        jobs: Jobs,
        sessions: Sessions,
        history: History,
        peer_of: Callable[[grpc.ServicerContext], Peer],
        log: Log,
    ) -> None:
        self._config, self._jobs, self._sessions = config, jobs, sessions
        self._history, self._peer_of, self._log = history, peer_of, log

    # ---- builds ------------------------------------------------------------------------------------------------------

    @answers
    def Solve(self, request: Any, context: grpc.ServicerContext) -> Any:
        job = self._jobs.start(request, self._peer_of(context))
        record: Any = None
        failure: BaseException | None = None
        response: dict[str, str] = {}
        try:
            if not context.add_callback(job.stop):  # called when the answer is out, too: then the build has ended
                job.stop()  # the client has gone while its build was made ready
            self._log(f"build {job.ref} of {job.peer} starts")
            record = None if request.Internal else self._history.begin(job)
            response = _run(job)
            return control.SolveResponse(ExporterResponse=response)
        except BaseException as error:
            failure = error
            if isinstance(error, KedgeError):
                also_tell(error, job.log.failed(error.message), traced=self._config.debug)
            raise
        finally:
            try:
                job.finish()
            finally:
                if record is not None:
                    self._history.end(job, record, response, status_message(told_as(failure)) if failure else None)
                self._log(f"build {job.ref} {'fails: ' + str(failure)[:500] if failure else 'is done'}")

    @streams
    def Status(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        stopped = threading.Event()
        context.add_callback(stopped.set)
        peer = self._peer_of(context)
        if (kept := self._history.status(request.Ref, peer)) is not None:
            yield from kept
            return
        yield from self._jobs.get(request.Ref, peer).log.listen(stopped)

    def Session(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        from kedge.daemon.buildkit.errors import abort

        try:
            outgoing = self._sessions.serve(
                context.invocation_metadata(), self._peer_of(context), (message.data for message in requests)
            )
            for data in outgoing:
                yield control.BytesMessage(data=data)
        except KedgeError as error:
            abort(context, error)

    # ---- the worker and the store ------------------------------------------------------------------------------------

    @answers
    def ListWorkers(self, request: Any, context: grpc.ServicerContext) -> Any:
        return control.ListWorkersResponse(record=[worker_record(self._config)])

    @answers
    def Info(self, request: Any, context: grpc.ServicerContext) -> Any:
        return control.InfoResponse(buildkitVersion=version_message())

    @answers
    def DiskUsage(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.ageLimit < 0:
            raise Refused("a negative age limit")
        with Store.open(self._config.root) as store:
            return control.DiskUsageResponse(record=self._usage(store, request))

    @streams
    def Prune(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with Store.open(self._config.root) as store:
            yield from prune(store, request, images=not self._config.images_are_cache)

    def _usage(self, store: Store, request: Any) -> list[Any]:
        held = not self._config.images_are_cache
        return usage_records(store, request.filter, request.ageLimit / 1e9, images=held)

    # ---- history -----------------------------------------------------------------------------------------------------

    @streams
    def ListenBuildHistory(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        stopped = threading.Event()
        context.add_callback(stopped.set)
        for event in self._history.listen(request, self._peer_of(context), stopped):
            yield _event(event)

    @answers
    def UpdateBuildHistory(self, request: Any, context: grpc.ServicerContext) -> Any:
        peer = self._peer_of(context)
        if request.Delete:
            self._history.delete(request.Ref, peer)
        elif not request.Finalize:
            self._history.pin(request.Ref, peer, request.Pinned)
        else:
            self._history.finalize(request.Ref, peer)
        return control.UpdateBuildHistoryResponse()


def _event(event: HistoryEvent) -> Any:
    return control.BuildHistoryEvent(type=event.kind, record=event.record)


def _run(job: Job) -> dict[str, str]:
    """The build: solve what the request holds, or let its client drive; then export."""
    request = job.request
    if request.Frontend:
        if request.HasField("Definition") and request.Definition.ByteSize():
            raise Refused("cannot solve with both Definition and Frontend specified")
        result = solve_frontend(job, request.Frontend, dict(request.FrontendAttrs), dict(request.FrontendInputs))
    elif request.HasField("Definition"):  # also one of nothing
        result = solve_definition(job, request.Definition)
    else:
        result = job.bridge.wait()
    result.evaluate()
    return export(job, result, exporters(request))
