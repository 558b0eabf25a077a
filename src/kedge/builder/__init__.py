"""The composition root: a BuildRequest becomes a BuildResult.

The only package that constructs real parts. Does not know who asked: the command line, the Python API and the service
all come through `build`.
"""

from kedge.builder.request import (
    BuildRequest,
    BuildResult,
    BuiltImage,
    BuiltLayer,
    CacheSpec,
    Output,
)
from kedge.model.event import Report, silent
from kedge.session.session import Session

__all__ = ["BuildRequest", "BuildResult", "BuiltImage", "BuiltLayer", "CacheSpec", "Output", "build"]


def build(request: BuildRequest, session: Session, report: Report = silent) -> BuildResult:
    """Build what is asked. Blocks. Raises KedgeError; the store then holds what earlier steps made, and no new name.

    Reports may come from several threads. Who may not mount must have called `kernel.identity.enter_user_namespace`
    before. A KeyboardInterrupt stops every step and is raised again.
    """
    from kedge.builder.course import build as run

    return run(request, session, report)
