"""Attestations, wired: from a build's graph, pins and files to the predicates that exporters attach.

Owns which facts are told. Does not know the predicates' forms (`exporters.provenance`, `exporters.sbom`), nor how they
are attached (`exporters.attest`).
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kedge.builder.attested_steps import file_of, layers_of, lent_to, steps_of
from kedge.builder.parts import Parts
from kedge.builder.remote import RemoteRequest
from kedge.builder.scans import Scan
from kedge.builder.steps import step
from kedge.dockerfile import LANGUAGE
from kedge.dockerfile.target import Target
from kedge.exporters.assemble import Assembled, Stage, timestamp
from kedge.exporters.attest import AttestationOptions, Predicate, attach, blob_package_url
from kedge.exporters.image import Exported
from kedge.exporters.options import ImageOptions
from kedge.exporters.provenance import BuildFacts, Material, without_credentials
from kedge.model.digest import digest_of
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import Exec, Source
from kedge.model.reference import parse_reference
from kedge.model.value import replace

if TYPE_CHECKING:
    from kedge.exporters.sbom.scan import Inventory


class Attestor:
    """The attestations of one build: those asked for, and for each target what it was given. `attach` may be called for
    several exports: trees are scanned once.
    """

    def __init__(
        self,
        parts: Parts,
        asked: Sequence[AttestationOptions],
        targets: Sequence[Target],
        stages: Sequence[Stage],
        scans: Sequence[Scan] = (),
        given: Sequence[Sequence[Predicate]] = (),
    ) -> None:
        self.asked = asked
        self._given = given or [() for _ in targets]
        self._parts, self._targets, self._stages = parts, targets, stages
        self._scans = scans or [Scan() for _ in targets]
        self._inventories: dict[Snapshot, Inventory] = {}
        self._lock = threading.Lock()
        self.metadata: dict[str, Any] = {}

    def narrowed(self, asked: Sequence[AttestationOptions]) -> "Attestor | None":
        """The same, with only some of what is asked for: what an output takes. None if that, and what is given, is
        nothing.
        """
        if not asked and not any(self._given):
            return None
        other = copy(self)
        other.asked = asked
        return other

    def attach(self, exported: Exported, options: ImageOptions) -> Exported:
        """The export with what is asked for attached to each image."""
        return attach(exported, self._predicates, options)

    def beside_files(self, number: int) -> list[Predicate]:
        """What is said of a target's files where there is no image."""
        return self._predicates(number, None)

    def _predicates(self, number: int, image: Assembled | None) -> list[Predicate]:
        makers = {"provenance": self._provenance, "sbom": self._sbom}
        made = [predicate for one in self.asked for predicate in makers[one.kind](one, number, image)]
        return [self._with_layers(one, image) for one in (*self._given[number], *made)]

    def _with_layers(self, predicate: Predicate, image: Assembled | None) -> Predicate:
        """A bill of materials of the image's own files that tells the layers they are from."""
        if image is None or not predicate.is_core:
            return predicate
        from kedge import __version__
        from kedge.exporters.sbom.supplement import files_of, supplemented

        if not files_of(predicate.value):
            return predicate
        blobs = [layer.digest for layer in image.manifest.layers]
        layers = list(zip(blobs, map(self._parts.store.layers.directory, image.layers), strict=True))
        return replace(predicate, value=supplemented(predicate.value, layers, f"kedge-{__version__}"))

    def _provenance(self, asked: AttestationOptions, number: int, image: Assembled | None) -> list[Predicate]:
        from kedge.exporters.provenance import PREDICATE, PREDICATE_02, as_slsa02, provenance

        facts = facts_of(self._parts, self._targets[number], image, self._scans[number].scanner)
        # No clock in what an image's digest depends on.
        if asked.form == "referrer":
            facts = replace(
                facts,
                invocation=self._parts.invocation,
                started=timestamp(int(self._parts.started)),
                finished=timestamp(int(time.time())),
            )
        value = provenance(
            facts,
            full=asked.mode == "max",
            builder_id=asked.builder_id,
            reproducible=asked.reproducible,
            show_args=asked.build_args,
        )
        several = f"/{self._stages[number].config.platform}" if len(self._stages) > 1 else ""
        self.metadata["buildx.build.provenance" + several] = value
        if asked.old:
            return [Predicate(PREDICATE_02, as_slsa02(value), asked.form)]
        return [Predicate(PREDICATE, value, asked.form)]

    def _sbom(self, asked: AttestationOptions, number: int, image: Assembled | None) -> list[Predicate]:
        from kedge.exporters.sbom.bundle import CORE, EXTRA, is_core, read_bundle
        from kedge.exporters.sbom.spdx import PREDICATE

        made = self._scans[number]
        if made.bundle is not None:
            with self._parts.store.layers.mounted(made.bundle) as tree:
                found = read_bundle(tree.fd)
            return [
                Predicate(PREDICATE, one.predicate, asked.form, one.file, one.subjects, is_core(one.file, CORE))
                for one in found
            ]
        names = self._parts.request.tags
        config = self._stages[number].config
        digest: str = image.manifest_document.descriptor.digest if image else digest_of(config.to_bytes())
        trees = [(CORE, self._stages[number].snapshot, (names[0] if names else "", digest))]
        trees += [(EXTRA + name, snapshot, (name, "")) for name, snapshot in made.extras]
        return [
            Predicate(PREDICATE, self._document(number, snapshot, *what), asked.form, f"{file}.spdx.json")
            for file, snapshot, what in trees
        ]

    def _document(self, number: int, snapshot: Snapshot, name: str, version: str) -> Mapping[str, Any]:
        from kedge import __version__
        from kedge.exporters.sbom.spdx import document

        inventory = self._inventory(number, snapshot)
        return document(inventory, name, version, timestamp(self._stages[number].clamp), f"kedge-{__version__}")

    def _inventory(self, number: int, snapshot: Snapshot) -> "Inventory":
        from kedge.exporters.sbom.scan import scan

        with self._lock:
            if snapshot not in self._inventories:
                platform = self._stages[number].config.platform
                title = f"[{platform}] generating sbom" if len(self._stages) > 1 else "generating sbom"
                with (
                    step(self._parts.report, self._parts.trunk.cancel, title),
                    self._parts.store.layers.mounted(snapshot) as tree,
                ):
                    self._inventories[snapshot] = scan(tree.fd)
            return self._inventories[snapshot]


# ---- facts -----------------------------------------------------------------------------------------------------------


def facts_of(parts: Parts, target: Target, image: Assembled | None, scanner: Vertex | None = None) -> BuildFacts:
    """What is told of one target of the build, without times; an image of it has layers to tell.

    `scanner` is the image that made its bill of materials.
    """
    from kedge import __version__

    request = parts.request
    steps = steps_of(target.edge) if target.edge else None
    vertices = list(steps.ids) if steps else []
    sources = [(vertex, vertex.op) for vertex in vertices if isinstance(vertex.op, Source)]
    used = [vertex for vertex, _ in sources] + ([scanner] if scanner else [])
    remote, digest = parts.remote_context or ("", "")
    definition = parts.definition
    name = definition.name if definition else ""  # a graph by itself is from no file of the request's
    names = {op.identifier.partition("://")[2] for _, op in sources if op.scheme == "local"}
    if definition and not remote:  # the context is at least looked at for its ignore file
        names |= {"dockerfile", *(["context"] if request.context is not None or parts.remote.context_lent else [])}
    return BuildFacts(
        builder_platform=parts.host,
        path=name,
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        secrets=tuple((use.id, not use.required) for use in target.secrets) or lent_to(vertices, "secret"),
        ssh=tuple((use.id, not use.required) for use in target.ssh) or lent_to(vertices, "ssh"),
        locals=tuple(sorted(name for name in names if not (remote and name == "context"))),
        contexts=request.named_contexts,
        materials=tuple(filter(None, (*(_material(parts, vertex) for vertex in used), _context(remote, digest)))),
        config_uri=remote,
        config_digest=digest,
        hermetic=all(op.network == "none" for op in (vertex.op for vertex in vertices) if isinstance(op, Exec)),
        vcs=_vcs(parts),
        steps=steps.told if steps else (),
        step_digests=steps.digests if steps else {},
        step_locations=steps.locations() if steps else {},
        dockerfile=(name, definition.text.encode("utf-8", "surrogateescape")) if definition else file_of(vertices),
        layers=layers_of(target.edge, steps.ids, image.manifest.layers) if target.edge and steps and image else (),
        version=__version__,
        language=LANGUAGE if definition else "",
        frontend="dockerfile.v0" if definition else "",
        told_args=parts.remote.told_args,
        inputs=_inputs(parts, parts.remote),
        root=replace(_asked(parts, parts.remote.root), frontend="") if parts.remote.root else None,
    )


def _inputs(parts: Parts, request: RemoteRequest) -> tuple[tuple[str, BuildFacts], ...]:
    """The requests whose results were given as inputs."""
    return tuple((one.name, _asked(parts, one.made_by)) for one in request.inputs if one.made_by)


def _asked(parts: Parts, request: RemoteRequest) -> BuildFacts:
    """What is told of another request than the build's own."""
    return BuildFacts(
        builder_platform=parts.host,
        path=request.dockerfile,
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        contexts=request.named_contexts,
        told_args=request.told_args,
        inputs=_inputs(parts, request),
    )


def _material(parts: Parts, vertex: Vertex) -> Material | None:
    """What a source was pinned to; a client's own directories are no materials."""
    pin = parts.pins.get(vertex)
    labels, op = dict(pin.labels) if pin else {}, vertex.op
    assert isinstance(op, Source)
    if text := labels.get("image"):
        name, digest = text.partition("@")[0], text.rpartition("@")[2]
        if op.scheme == "oci-layout":
            return Material(_layout_url(parts, op, digest), digest)
        return Material(name, digest, True, vertex.platform)
    if text := labels.get("blob"):
        reference = parse_reference(text)
        kind = "oci" if op.scheme == "oci-layout+blob" else "docker"
        return Material(blob_package_url(kind, reference, str(reference.digest)), str(reference.digest))
    if text := labels.get("repository"):
        ref = op.identifier.partition("#")[2].partition(":")[0]
        remote = without_credentials(op.attr("git.fullurl") or text).partition("#")[0]
        return Material(f"{remote}#{ref}" if ref else remote, labels.get("commit", ""))
    if text := labels.get("URL"):
        return Material(without_credentials(text), labels.get("content", ""))
    return None


def _context(remote: str, digest: str) -> Material | None:
    """The remote context itself, whole: of a repository the folder that was the context is not part of the name."""
    where, _, fragment = without_credentials(remote).partition("#")
    ref = fragment.partition(":")[0]
    return Material(f"{where}#{ref}" if ref else where, digest) if remote and digest else None


def _layout_url(parts: Parts, op: Source, digest: str) -> str:
    """An image of a layout as a package URL (purl-spec, type oci): by the context that it is, or by its folder."""
    rest = op.identifier.partition("://")[2]
    named = (name for name, value in parts.request.named_contexts if value.partition(":")[2].lstrip("/") == rest)
    name = next(named, "") or rest.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return f"pkg:oci/{quote(name.partition('::')[0], safe='.-_~')}?digest={quote(digest, safe=':')}"


def _vcs(parts: Parts) -> tuple[tuple[str, str], ...]:
    """The commit that a local context's repository has checked out, and where the repository comes from: hints only."""
    if parts.remote.vcs:
        return tuple((key, without_credentials(value)) for key, value in parts.remote.vcs)
    context = parts.request.context
    if parts.remote_context or not isinstance(context, (str, os.PathLike)):
        return ()
    for folder in (Path(context).absolute(), *Path(context).absolute().parents):
        if (folder / ".git").is_dir():
            revision, source = _head(folder / ".git"), _origin(folder / ".git" / "config")
            found = [("revision", revision), ("source", without_credentials(source))]
            return tuple(pair for pair in found if pair[1])
    return ()


def _head(git: Path) -> str:
    text = _small(git / "HEAD")
    reference = text.removeprefix("ref:").strip()
    if not text.startswith("ref:"):
        return reference if _is_commit(reference) else ""
    if ".." in reference or not reference.startswith("refs/"):
        return ""
    commit = _small(git / reference).strip()
    if not commit:
        lines = (line.split() for line in _small(git / "packed-refs").splitlines())
        commit = next((words[0] for words in lines if len(words) == 2 and words[1] == reference), "")
    return commit if _is_commit(commit) else ""


def _origin(config: Path) -> str:
    section = ""
    for line in _small(config).splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == '[remote "origin"]' and line.replace(" ", "").startswith("url="):
            return line.partition("=")[2].strip()
    return ""


def _is_commit(text: str) -> bool:
    return len(text) in (40, 64) and not text.strip("0123456789abcdef")


def _small(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""
