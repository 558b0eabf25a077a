"""Errors mark the words at fault and name the nearest right one."""

import pytest

from kedge.dockerfile.lower import lower, needed_images
from kedge.dockerfile.options import LowerOptions, ResolvedImage
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.errors import KedgeError, Location, SourceFile
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform

BASE = ResolvedImage(ImageConfig(Platform("linux", "amd64")))


def build(text):
    file, options = read_dockerfile(text), LowerOptions()
    known = {one: BASE for one in needed_images(file, options) if "busybox" in one.reference}
    lower(file, options, known)


def failure(text):
    with pytest.raises(KedgeError) as caught:
        build(text)
    return caught.value


def marked(error):
    where = error.location
    line = where.file.text.split("\n")[where.start - 1]
    return where.start, line[slice(*where.columns)] if where.columns else line


@pytest.mark.parametrize(
    ("text", "line", "fault", "hint"),
    [
        ("FROM busybox\nRNU true\n", 2, "RNU", "Did you mean RUN?"),
        ("FROM busybox\nCOPY \\\n  --fom=x a b\n", 3, "--fom", "Did you mean --from?"),
        ("FROM busybox\nCOPY --link=yes a b\n", 2, "--link=yes", ""),
        ("FROM busybox AS build\nFROM busybox\nCOPY --from=biuld a b\n", 3, "biuld", "Did you mean the stage build?"),
        ("FROM busybox\nRUN --network=hots true\n", 2, "--network=hots", "Did you mean host?"),
        ("FROM busybox\nRUN --mount=type=cache,targt=/x true\n", 2, "targt=/x", "Did you mean target?"),
        ("FROM busybox\nRUN --mount=type=cahe,target=/x true\n", 2, "type=cahe", "Did you mean cache?"),
        ("FROM busybox\nENV A=${B^^}\n", 2, "${B^", "There are ${x:-w}"),
        ("FROM busybox\nENV A=${B:?missing}\n", 2, "${B:?missing}", ""),
        ('FROM busybox\nWORKDIR "/x\n', 2, '"/x', ""),
        ("FROM busybox\nCOPY --chmod=rwx a b\n", 2, "--chmod=rwx", "octal"),
        ("FROM busybox AS 1st\n", 1, "1st", "starts with a letter"),
        ("FROM busybox\nLABEL title=My image\n", 2, "image", 'title="My image"'),
    ],
)
def test_the_fault_is_marked_and_mended(text, line, fault, hint):
    error = failure(text)
    assert marked(error) == (line, fault)
    assert hint in error.hint


def test_a_word_is_marked_rather_than_a_part_of_one():
    source = SourceFile("Dockerfile", "ENV abc=1 \\\n  b c\n")
    found = Location(source, 1, 2).narrowed("c")
    assert (found.start, found.end, found.columns) == (2, 2, (4, 5))


def test_a_fault_that_is_nowhere_leaves_the_lines():
    where = Location(SourceFile("Dockerfile", "FROM x\n"), 1, 1)
    assert where.narrowed("y") == where
    assert where.narrowed("") == where
