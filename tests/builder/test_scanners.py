"""SBOM scanners that are images, run for real as BuildKit runs them; and what else than the final image is scanned."""

import json
import tarfile

import pytest

from kedge.builder import Output
from kedge.model.errors import InvalidInput, KedgeError, StepFailed

SPDX = "https://spdx.dev/Document"
SCAN = """\
set -e
say() { echo '{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document",'"$2"'}' > "$1"; }
out=$BUILDKIT_SCAN_DESTINATION
for source in "$BUILDKIT_SCAN_SOURCE" ${BUILDKIT_SCAN_SOURCE_EXTRAS:+"$BUILDKIT_SCAN_SOURCE_EXTRAS"*}; do
    files=$(cd "$source" && echo *)
    name=${source##*/}
    say "$out/$name.spdx.json" '"predicate":{"name":"'"$name"'","files":"'"$files"'","word":"'"$BUILDKIT_SCAN_WORD"'"}'
done
"""
STAGES = """\
FROM base AS tools
ARG BUILDKIT_SBOM_SCAN_STAGE=true
RUN echo 1 > /tool && rm -r /bin
FROM scratch
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
COPY --from=tools /tool /made
COPY one /one
"""


def scanner(bench, script=SCAN, command='CMD ["sh", "/scan.sh"]'):
    """A scanner image under the name `scanner`."""
    bench.write(scan_dot_sh=script)
    bench.build(f"FROM base\nCOPY scan.sh /\nWORKDIR /work\n{command}\n", tags=("scanner",))
    (bench.context / "scan.sh").unlink()


def scanned(bench, tmp_path, text, sbom="generator=scanner", **fields):
    """The files that an output of files has: names and statements."""
    out = tmp_path / "out"
    fields = {"attestations": (("sbom", sbom),), "outputs": (Output("local", (), out),)} | fields
    bench.build(text, **fields)
    return {path.name: json.loads(path.read_text()) for path in out.glob("*.json")}


def test_a_scanner_image_sees_the_result_and_what_else_is_asked_for(bench, tmp_path):
    scanner(bench)
    bench.write(one="1", two="2")
    found = scanned(bench, tmp_path, STAGES, 'generator=scanner,"WORD=a,b"')
    assert {name: one["predicate"] for name, one in found.items()} == {
        "sbom.spdx.json": {"name": "sbom", "files": "made one", "word": "a,b"},
        "sbom-context.spdx.json": {"name": "sbom-context", "files": "one", "word": "a,b"},
        "sbom-tools.spdx.json": {"name": "sbom-tools", "files": "etc root tmp tool", "word": "a,b"},
    }
    assert {one["predicateType"] for one in found.values()} == {SPDX}
    assert [one["name"] for one in found["sbom.spdx.json"]["subject"]] == ["made", "one"]


def test_a_scan_is_a_step_that_is_cached(bench, tmp_path):
    scanner(bench)
    bench.write(one="1")
    text = "FROM scratch\nCOPY one /\n"
    scanned(bench, tmp_path, text)
    (step,) = (name for name in bench.ran() if "generating sbom using" in name)
    assert step.endswith("] generating sbom using scanner:latest")
    scanned(bench, tmp_path, text)
    assert bench.steps()[step] == "CACHED"
    scanned(bench, tmp_path, text, no_cache=True)
    assert bench.steps()[step] == "DONE"
    bench.write(one="2")
    scanned(bench, tmp_path, text)
    assert bench.steps()[step] == "DONE"


def test_what_nobody_takes_is_not_scanned(bench, tmp_path):
    scanner(bench, "false")
    bench.write(one="1")
    asked = {"cacheonly": "generator=scanner", "tar": "generator=scanner,inline-only=true"}
    for kind, sbom in asked.items():
        output = Output(kind, (), tmp_path / "x.tar")
        bench.build("FROM scratch\nCOPY one /\n", attestations=(("sbom", sbom),), outputs=(output,))
    assert not any("sbom" in name for name in bench.steps())


def test_statements_are_attached_to_the_image_that_is_scanned(bench, tmp_path):
    scanner(bench)
    bench.write(one="1")
    asked = (("sbom", "generator=scanner,form=index"), ("provenance", "form=index"))
    archive = tmp_path / "image.tar"
    bench.build(STAGES, attestations=asked, outputs=(Output("oci", (), archive),), tags=("x",))
    with tarfile.open(archive) as tar:
        blobs = {
            m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.name.startswith("blobs/sha256/")
        }
        index = json.loads(tar.extractfile("index.json").read())
    image, about = json.loads(blobs[index["manifests"][0]["digest"][7:]])["manifests"]
    layers = json.loads(blobs[about["digest"][7:]])["layers"]
    statements = [json.loads(blobs[layer["digest"][7:]]) for layer in layers]
    assert [layer["annotations"]["in-toto.io/predicate-type"] for layer in layers[:3]] == [SPDX] * 3
    assert [one["predicate"]["name"] for one in statements[:3]] == ["sbom", "sbom-context", "sbom-tools"]
    assert all(one["subject"][0]["digest"]["sha256"] == image["digest"][7:] for one in statements)
    used = [one["uri"] for one in statements[3]["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert any(uri.startswith("pkg:docker/scanner@latest") for uri in used), "the scanner is a thing that was used"


def test_a_scanners_files_are_told_their_layers(bench, tmp_path):
    """A scanner sees the whole tree: what came with which layer, only the builder knows."""
    files = '"predicate":{"files":[{"fileName":"/one"},{"fileName":"/two"},{"fileName":"/three"}]}'
    scanner(bench, SCAN.partition("out=")[0] + f"say $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json '{files}'")
    bench.write(one="1", two="2")
    archive = tmp_path / "image.tar"
    bench.build(
        "FROM scratch\nCOPY one /\nCOPY two /\n",
        attestations=(("sbom", "generator=scanner,form=index"),),
        outputs=(Output("oci", (), archive),),
    )
    with tarfile.open(archive) as tar:
        blobs = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}
    image, about = json.loads(blobs[json.loads(blobs["index.json"])["manifests"][0]["digest"][7:]])["manifests"]
    one, two = (layer["digest"] for layer in json.loads(blobs[image["digest"][7:]])["layers"])
    (statement,) = (blobs[layer["digest"][7:]] for layer in json.loads(blobs[about["digest"][7:]])["layers"])
    told = [file.get("comment") for file in json.loads(statement)["predicate"]["files"]]
    assert told == [f"layerID: {one}", f"layerID: {two}", None]


def test_an_image_without_files_is_scanned(bench, tmp_path):
    scanner(bench)
    found = scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n")
    assert found["sbom.spdx.json"]["predicate"]["files"] == "*"


def test_what_is_scanned_stays_as_it_is(bench, tmp_path):
    scanner(bench, 'echo no > "$BUILDKIT_SCAN_SOURCE/one" || exit 7\n')
    bench.write(one="1")
    with pytest.raises(StepFailed) as failed:
        scanned(bench, tmp_path, "FROM scratch\nCOPY one /\n")
    assert failed.value.exit_code == 7
    assert b"Read-only" in failed.value.tail


STATEMENT = '{"predicateType":"https://spdx.dev/Document","predicate":{"name":"x"}}'


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "wrote nothing"),
        (f"echo '{STATEMENT}' > /work/s; ln -s /etc/passwd $BUILDKIT_SCAN_DESTINATION/s", "not a regular file"),
        ("mkdir $BUILDKIT_SCAN_DESTINATION/s", "not a regular file"),
        ("echo '{' > $BUILDKIT_SCAN_DESTINATION/s", "no in-toto statement"),
        (f"echo '[{STATEMENT}]' > $BUILDKIT_SCAN_DESTINATION/s", "no in-toto statement"),
        (f"echo '{STATEMENT.replace('spdx.dev', 'x.dev')}' > $BUILDKIT_SCAN_DESTINATION/s", "expected https://spdx"),
        (f"echo '{STATEMENT[:-2]},\"y\":1e999}}}}' > $BUILDKIT_SCAN_DESTINATION/s", "no in-toto statement"),
        (f"echo '{STATEMENT[:-2]},\"y\":NaN}}}}' > $BUILDKIT_SCAN_DESTINATION/s", "no in-toto statement"),
        (f'echo \'{STATEMENT[:-2]},"y":"\\ud800"}}}}\' > $BUILDKIT_SCAN_DESTINATION/s', "no in-toto statement"),
        ("truncate -s 41M $BUILDKIT_SCAN_DESTINATION/s", "too large"),
        ("for i in $(seq 1001); do > $BUILDKIT_SCAN_DESTINATION/$i; done", "more than 1000"),
    ],
)
def test_what_a_scanner_writes_is_not_trusted(bench, tmp_path, script, message):
    scanner(bench, script.replace("truncate", "/bin/busybox truncate").replace("seq", "/bin/busybox seq"))
    with pytest.raises(InvalidInput, match=message):
        scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n")
    assert not (tmp_path / "out" / "s").exists()


def test_a_deep_statement_ends_in_success_or_an_error(bench, tmp_path):
    for depth in (200, 100_000):
        data = '{"y":' * depth + "1" + "}" * depth
        script = f'cat <<E > $BUILDKIT_SCAN_DESTINATION/sbom.json\n{STATEMENT[:-2]},"y":{data}}}}}\nE\n'
        scanner(bench, script)
        try:
            scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n")
        except InvalidInput:
            assert depth > 200


def test_a_statement_may_be_about_something_else(bench, tmp_path):
    subject = '"subject":[{"name":"a.jar","digest":{"sha1":"x"}}]'
    scanner(bench, f"echo '{STATEMENT[:-1]},{subject}}}' > $BUILDKIT_SCAN_DESTINATION/s.json")
    found = scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n")
    assert found["s.json"]["subject"] == [{"name": "a.jar", "digest": {"sha1": "x"}}]


def test_a_scanner_without_a_command_is_refused(bench, tmp_path):
    scanner(bench, command="")
    with pytest.raises(InvalidInput, match="no command"):
        scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n")


def test_a_scanner_that_is_not_there_is_named(bench, tmp_path):
    with pytest.raises(KedgeError, match="localhost:1/none"):
        scanned(bench, tmp_path, "FROM scratch\nLABEL a=b\n", "generator=localhost:1/none:1")


def test_without_a_scanner_other_stages_and_the_context_have_documents_of_their_own(bench, tmp_path):
    bench.write(one="1", **{"a_dot_dist-info__METADATA": "Name: in-the-context\nVersion: 1\n"})
    text = STAGES.replace("RUN ", "RUN mkdir /b.dist-info && echo Name: in-tools > /b.dist-info/METADATA && ")
    text = text.replace(" > /tool", " > /tool && echo Version: 2 >> /b.dist-info/METADATA")
    found = scanned(bench, tmp_path, text.replace("COPY one", "COPY . /x\nCOPY one"), "")
    packages = {name: [package["name"] for package in one["predicate"]["packages"][1:]] for name, one in found.items()}
    assert packages == {
        "sbom.spdx.json": ["in-the-context"],
        "sbom-context.spdx.json": ["in-the-context"],
        "sbom-tools.spdx.json": ["in-tools"],
    }
    assert found["sbom-tools.spdx.json"]["predicate"]["name"] == "tools"


def test_several_platforms_in_one_folder_have_files_of_their_own(bench, tmp_path):
    text = "FROM scratch\nARG TARGETARCH\nCOPY one /$TARGETARCH\n"
    bench.write(one="1")
    out = tmp_path / "out"
    bench.build(
        text,
        platforms=("linux/amd64", "linux/arm64"),
        attestations=(("sbom", ""), ("provenance", "")),
        outputs=(Output("local", (("platform-split", "false"),), out),),
    )
    assert sorted(path.name for path in out.glob("*.json")) == [
        f"{kind}.linux_{name}.json" for kind in ("provenance", "sbom.spdx") for name in ("amd64", "arm64")
    ]
