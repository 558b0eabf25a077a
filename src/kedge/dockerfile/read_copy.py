"""Reading COPY and ADD.

Owns their flags and the split of their arguments into sources, heredocs and destination.
"""

from kedge.dockerfile import instructions as i
from kedge.dockerfile.flags import Kind
from kedge.dockerfile.heredoc import parse_heredoc
from kedge.dockerfile.parser import Node
from kedge.dockerfile.read_arguments import Head, flags_of
from kedge.model.errors import DockerfileError

_COPY_FLAGS = {
    "from": Kind.TEXT,
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.BOOL,
    "parents": Kind.BOOL,
    "exclude": Kind.TEXTS,
}
_ADD_FLAGS = {
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.BOOL,
    "keep-git-dir": Kind.BOOL,
    "checksum": Kind.TEXT,
    "unpack": Kind.BOOL,
    "exclude": Kind.TEXTS,
}


def read_copy(node: Node, head: Head) -> i.Copy:
    """COPY; raises DockerfileError."""
    flags = flags_of(node, _COPY_FLAGS)
    return i.Copy(
        *head,
        *_sources(node),
        source_stage=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.true("link"),
        parents=flags.true("parents"),
        exclude=flags.list("exclude"),
    )


def read_add(node: Node, head: Head) -> i.Add:
    """ADD; raises DockerfileError."""
    flags = flags_of(node, _ADD_FLAGS)
    return i.Add(
        *head,
        *_sources(node),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.true("link"),
        exclude=flags.list("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.booleans.get("keep-git-dir"),
        unpack=flags.booleans.get("unpack"),
    )


def _sources(node: Node) -> tuple[tuple[str, ...], tuple[i.InlineFile, ...], str]:
    if len(node.values) < 2:
        raise DockerfileError(f"{node.name} needs at least one source and a destination")
    *words, dest = node.values
    if parse_heredoc(dest) is not None:
        raise DockerfileError(f"{node.name} cannot have a heredoc as destination", hint="Put the destination last.")
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths, inline = [], []
    for word in words:
        heredoc = parse_heredoc(word)
        if heredoc is None:
            paths.append(word)
        elif heredoc.name in bodies:
            body = bodies[heredoc.name]
            inline.append(i.InlineFile(heredoc.name, body.body, heredoc.expand))
    return tuple(paths), tuple(inline), dest
