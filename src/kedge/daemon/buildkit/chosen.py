"""Outputs that a client chooses when its build is solved: it is told of the result then, and of the exports at the end.

Owns these two questions to its session (BuildKit's session/exporter), which a client may leave unanswered. Does not
know how an output is made (`exporting`).
"""

from collections.abc import Mapping
from typing import Any

import grpc

from kedge.daemon.buildkit.jobs import Job, Result
from kedge.daemon.buildkit.platforms import ordered
from kedge.daemon.wire import control, exporter
from kedge.model.errors import InvalidInput

_NONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)


def chosen_exporters(job: Job, result: Result) -> list[Any]:
    """The outputs that the client adds to those of its request. It may read the result before it answers: the build is
    under way, and has ids for its files. Raises InvalidInput.
    """
    if not job.request.EnableSessionExporter:
        return []
    files = [outcome for key in ordered(result) if (outcome := result.outcomes[key])]
    request = exporter.FindExportersRequest(metadata=result.metadata, refs=map(job.bridge.keep, files))
    answer = _ask(job, "FindExporters", request)
    return [control.Exporter(Type=one.Type, Attrs=one.Attrs) for one in answer.exporters] if answer else []


def tell_exported(job: Job, response: Mapping[str, str]) -> None:
    """Tell the client what was exported, caches too. Raises InvalidInput if it refuses: then the build fails."""
    if job.request.EnableSessionExporter:
        _ask(job, "FinalizeExport", exporter.FinalizeExportRequest(exporter_response=response))


def _ask(job: Job, method: str, request: Any) -> Any:
    """The client's answer; None from one that has no such service."""
    try:
        return job.lent.session.calls(exporter.services["Exporter"]).unary(method, request)
    except grpc.RpcError as error:
        if error.code() in _NONE:
            return None
        raise InvalidInput(f"the client's exporter: {(error.details() or '')[:1000]}") from None
