"""Records of builds, for `buildx history`: what was asked, how it ended, and everything it told.

Owns the files `history/<ref>.record` below the service's directory, their bound, and who hears of which: builds of one
user are no other user's business. Does not know builds.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.errors import Refused
from kedge.daemon.buildkit.history_filters import chosen_by
from kedge.daemon.buildkit.jobs import Job
from kedge.daemon.buildkit.progress import to_timestamp
from kedge.daemon.buildkit.records import LOGS_TYPE, STATUS_TYPE, Documents
from kedge.daemon.buildkit.spans import TRACE_TYPE, spans
from kedge.daemon.buildkit.told import statements
from kedge.daemon.peer import Peer
from kedge.daemon.wire import control
from kedge.exporters.attest import IN_TOTO, PREDICATE_NOTE
from kedge.exporters.provenance import PREDICATE
from kedge.model.errors import Conflict, NotFound
from kedge.model.value import dataclass

STARTED, COMPLETE, DELETED = control.STARTED, control.COMPLETE, control.DELETED

_MOST_EVENTS: Final = 500


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """A record, and what happened to it."""

    kind: int
    record: Any


@dataclass(slots=True)
class _Entry:
    record: Any
    realm: str
    active: bool


class History:
    """All records: those on disk, and builds under way."""

    def __init__(self, config: ServiceConfig, peer_of: Callable[[Any], Peer]) -> None:
        self._directory = config.root / "service" / "history"
        self._config = config
        self.documents = Documents(self._directory, peer_of)
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._events: list[tuple[str, HistoryEvent]] = []  # the last ones: listeners are woken for each
        self._forgotten = 0  # how many events came before those
        self._load()

    # ---- writing -----------------------------------------------------------------------------------------------------

    def begin(self, job: Job) -> Any:
        """A record of a build that starts. Raises Conflict where another user has one of that ref."""
        request = job.request
        record = control.BuildHistoryRecord(
            Ref=job.ref,
            Frontend=request.Frontend,
            FrontendAttrs=dict(request.FrontendAttrs),
            Exporters=list(request.Exporters),
            CreatedAt=to_timestamp(job.created),
        )
        with self._changed:
            earlier = self._entries.get(job.ref)
            if earlier is not None and earlier.realm != job.peer.realm:
                raise Conflict(f"a build {job.ref[:40]} is known already")  # whose documents are not to change hands
            self._entries[job.ref] = _Entry(record, job.peer.realm, True)
            self._tell(job.peer.realm, HistoryEvent(STARTED, record))
        return record

    def end(self, job: Job, record: Any, response: dict[str, str], error: Any) -> None:
        """The build has ended: keep its record and what it told."""
        record.CompletedAt.CopyFrom(to_timestamp(time.time()))
        try:
            self._tell_all(job, record, response, error)
        finally:  # a record of a build that has ended never says that it goes on
            with self._changed:
                self._entries[job.ref] = _Entry(record, job.peer.realm, False)
                self._write(job.ref, job.peer.realm, record)
                self._trim()
                self._tell(job.peer.realm, HistoryEvent(COMPLETE, record))

    def _tell_all(self, job: Job, record: Any, response: dict[str, str], error: Any) -> None:
        counts = job.log.counts()
        record.ExporterResponse.update(response)
        record.numCachedSteps, record.numTotalSteps = counts.cached, counts.total
        record.numCompletedSteps, record.numWarnings = counts.completed, counts.warnings
        if error is not None:
            record.error.code, record.error.message = error.code, error.message
            record.externalError.CopyFrom(self._put(job, STATUS_TYPE, error.SerializeToString()))
        record.logs.CopyFrom(self._put(job, LOGS_TYPE, _write_messages(job.log.listen())))
        self._tell_result(job, record)

    def _tell_result(self, job: Job, record: Any) -> None:
        """How the result was made, and the documents of the images that it became."""
        for key, data in job.told.provenance.items():
            result = record.Results[key] if key else record.Result
            notes = {PREDICATE_NOTE: PREDICATE}
            result.Attestations.append(self._put(job, IN_TOTO, data, notes))
        for number, image in sorted(job.told.images.items()):
            for data in image.documents.values():
                self._put(job, "", data)
            for key, kind, data in statements(image):
                result = record.Results[key] if key in job.told.provenance else record.Result
                result.Attestations.append(self._put(job, IN_TOTO, data, {PREDICATE_NOTE: kind}))
            told = self._put(job, image.target.media_type, image.document.data)
            record.Result.Results[number].CopyFrom(told)
            if not record.Result.HasField("ResultDeprecated"):
                record.Result.ResultDeprecated.CopyFrom(told)

    def _put(self, job: Job, media_type: str, data: bytes, notes: Mapping[str, str] | None = None) -> Any:
        return self.documents.put(job.ref, job.peer.realm, media_type, data, notes)

    def pin(self, ref: str, peer: Peer, pinned: bool) -> None:
        """Keep a record for good, or no longer."""
        with self._changed:
            entry = self._own(ref, peer)
            entry.record.pinned = pinned
            self._write(ref, entry.realm, entry.record)
            self._tell(entry.realm, HistoryEvent(COMPLETE, entry.record))

    def finalize(self, ref: str, peer: Peer) -> None:
        """Make what is only made when somebody asks: the build's trace."""
        with self._changed:
            entry = self._own(ref, peer)
            if entry.active or entry.record.HasField("trace"):
                return
        made = spans(entry.record, self.status(ref, peer) or ())
        with self._changed:
            if self._entries.get(ref) is not entry:
                return  # deleted meanwhile
            entry.record.trace.CopyFrom(self.documents.put(ref, entry.realm, TRACE_TYPE, made))
            self._write(ref, entry.realm, entry.record)

    def delete(self, ref: str, peer: Peer) -> None:
        """Forget a record."""
        with self._changed:
            entry = self._own(ref, peer)
            if entry.active:
                raise Refused("a build under way cannot be deleted")
            self._forget(ref)

    def _forget(self, ref: str) -> None:
        entry = self._entries.pop(ref)
        (self._directory / f"{ref}.record").unlink(missing_ok=True)
        self.documents.forget(ref)
        self._tell(entry.realm, HistoryEvent(DELETED, control.BuildHistoryRecord(Ref=ref)))

    def _own(self, ref: str, peer: Peer) -> _Entry:
        entry = self._entries.get(ref)
        if entry is None or entry.realm != peer.realm:
            raise NotFound(f"no record of a build {ref[:40]}")
        return entry

    # ---- reading -----------------------------------------------------------------------------------------------------

    def listen(self, request: Any, peer: Peer, stopped: threading.Event) -> Iterator[HistoryEvent]:
        """Records as they are and, without `EarlyExit`, as they change."""
        if request.Limit < 0:
            raise Refused("a negative limit")
        wanted = chosen_by(request.Filter)
        with self._changed:
            at = self._forgotten + len(self._events)
            found = [
                HistoryEvent(STARTED if one.active else COMPLETE, one.record)
                for ref, one in self._entries.items()
                if one.realm == peer.realm and _chosen(request, ref, one) and wanted(one.record)
            ]
        found.sort(key=lambda event: event.record.CreatedAt.ToNanoseconds())
        if request.Ref and not found and request.EarlyExit:
            raise NotFound(f"no record of a build {request.Ref[:40]}")
        yield from found[-request.Limit :] if request.Limit else found
        while not request.EarlyExit and not stopped.is_set():
            with self._changed:
                while at == self._forgotten + len(self._events) and not stopped.is_set():
                    self._changed.wait(1.0)
                events = self._events[max(at - self._forgotten, 0) :]
                at = self._forgotten + len(self._events)
            for realm, event in events:
                told = not request.Ref or event.record.Ref == request.Ref
                if realm == peer.realm and told and (not request.ActiveOnly or event.kind == STARTED):
                    yield event

    def status(self, ref: str, peer: Peer) -> list[Any] | None:
        """What an ended build told, as status messages; None when there is no record of it."""
        with self._changed:
            entry = self._entries.get(ref)
            if entry is None or entry.realm != peer.realm or entry.active:
                return None
            digest = entry.record.logs.digest
        data = self.documents.get(ref, digest) if digest else None
        return None if data is None else list(_read_messages(data))

    def _tell(self, realm: str, event: HistoryEvent) -> None:
        copy = control.BuildHistoryRecord()
        copy.CopyFrom(event.record)
        self._events.append((realm, HistoryEvent(event.kind, copy)))
        if len(self._events) > _MOST_EVENTS:
            self._forgotten += len(self._events) - _MOST_EVENTS
            del self._events[:-_MOST_EVENTS]
        self._changed.notify_all()

    # ---- files -------------------------------------------------------------------------------------------------------

    def _write(self, ref: str, realm: str, record: Any) -> None:
        with suppress(OSError):  # a full disk must not fail a build that is done
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            _replace(self._directory / f"{ref}.record", realm.encode() + b"\n" + record.SerializeToString())

    def _load(self) -> None:
        for path in sorted(self._directory.glob("*.record")):
            with suppress(OSError, DecodeError, UnicodeDecodeError):
                realm, _, data = path.read_bytes().partition(b"\n")
                record = control.BuildHistoryRecord.FromString(data)
                self._entries[path.stem] = _Entry(record, realm.decode(), False)
                self.documents.load(path.stem, realm.decode())
        self.documents.keep_only(self._entries)

    def _trim(self) -> None:
        """Only so many records, and only so old; pinned ones stay."""
        ended = [(ref, one) for ref, one in self._entries.items() if not one.active and not one.record.pinned]
        ended.sort(key=lambda pair: pair[1].record.CompletedAt.ToNanoseconds())
        oldest = (time.time() - self._config.history_seconds) * 1e9
        for number, (ref, one) in enumerate(ended):
            too_many = len(ended) - number > self._config.history_entries
            if too_many or one.record.CompletedAt.ToNanoseconds() < oldest:
                self._forget(ref)


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_suffix(path.suffix + f".{os.getpid()}")
    aside.write_bytes(data)
    os.replace(aside, path)


def _write_messages(messages: Iterable[Any]) -> bytes:
    """BuildKit's form of a build's log: each status message after its length."""
    data = bytearray()
    for message in messages:
        one = message.SerializeToString()
        data += len(one).to_bytes(4, "big") + one
    return bytes(data)


def _read_messages(data: bytes) -> Iterator[Any]:
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        with suppress(DecodeError):
            yield control.StatusResponse.FromString(data[at + 4 : at + 4 + size])
        at += 4 + size


def _chosen(request: Any, ref: str, entry: _Entry) -> bool:
    return (not request.Ref or ref == request.Ref) and (not request.ActiveOnly or entry.active)
