"""What the checks found, as the JSON that `docker build --call=check,format=json` prints.

Owns the document's shape: that of BuildKit's frontend.lint subrequest, version 1.0.0. Does not know how people read it.
"""

import json
from collections.abc import Iterable
from typing import Any

from kedge.dockerfile.outline import add_text, source_json
from kedge.model.errors import KedgeError, Location, SourceFile
from kedge.model.event import WarningEvent


def report_json(warnings: Iterable[WarningEvent], error: KedgeError | None = None) -> str:
    """The document: `warnings`, the `sources` they are about and, if the file cannot be built, its `buildError`."""
    sources: list[SourceFile] = []
    document: dict[str, Any] = {"warnings": [_warning(warning, sources) for warning in warnings], "sources": []}
    if error is not None:
        document["buildError"] = {"message": error.message} | _place(error.location, sources)
    document["sources"] = [
        {"filename": source.name, "language": "Dockerfile", "data": source_json(source.text)} for source in sources
    ]
    return json.dumps(document, indent=2, ensure_ascii=False)


def _warning(warning: WarningEvent, sources: list[SourceFile]) -> dict[str, Any]:
    found: dict[str, Any] = {"ruleName": warning.rule}
    add_text(found, description=warning.detail, url=warning.url, detail=warning.message)
    return found | _place(warning.location, sources)


def _place(location: Location | None, sources: list[SourceFile]) -> dict[str, Any]:
    if location is None:
        return {}
    if location.file not in sources:
        sources.append(location.file)
    index = sources.index(location.file)
    lines = [{"start": {"line": n}, "end": {"line": n}} for n in range(location.start, location.end + 1)]
    # As Go leaves out what is zero, the first source has no index.
    return {"location": ({"sourceIndex": index} if index else {}) | {"ranges": lines}}
