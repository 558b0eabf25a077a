"""The Dockerfile language, built for real: what ends up in the image and in its config."""

import gzip
import http.server
import os
import stat
import subprocess
import threading

import pytest

from kedge.builder import Output
from kedge.images.lookup import open_image
from kedge.model.errors import InvalidInput, KedgeError
from tests.archives import tar_of


def status(bench, name, path):
    with bench.tree(name) as tree:
        return os.stat(path, dir_fd=tree.fd, follow_symlinks=False)


def config(bench, name):
    from kedge.images.lookup import open_image

    with bench.store() as store:
        return open_image(store, name).config


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_heredocs_in_run_copy_and_with_a_shebang(bench):
    text = """\
FROM base
ARG WHO=you
RUN <<EOF
echo one > /one
echo $WHO > /who
EOF
RUN <<'EOF' cat > /quoted
$WHO stays
EOF
COPY --chmod=0640 --chown=1:2 <<a.txt <<-"b.txt" /files/
hello $WHO
a.txt
	tabs $WHO
b.txt
RUN <<EOF
#!/bin/cat
as it is
EOF
"""
    bench.build(text, tags=("x",))
    assert bench.read("x", "one") == "one\n"
    assert bench.read("x", "who") == "you\n"
    assert bench.read("x", "quoted") == "$WHO stays\n"
    assert bench.read("x", "files/a.txt") == "hello you\n"
    assert bench.read("x", "files/b.txt") == "tabs $WHO\n"
    seen = status(bench, "x", "files/a.txt")
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1, 2, 0o640)


def test_copy_owners_and_modes(bench):
    bench.write(f="x", d__g="y")
    bench.build(
        "FROM base\nCOPY --chown=bob f /a\nCOPY --chown=bob:wheel f /b\nCOPY --chown=7:8 --chmod=u+s,g-r f /c\n"
        "COPY --chmod=0700 d /d\n",
        tags=("x",),
    )
    owners = {name: (status(bench, "x", name).st_uid, status(bench, "x", name).st_gid) for name in "abc"}
    assert owners == {"a": (1234, 1235), "b": (1234, 10), "c": (7, 8)}
    assert status(bench, "x", "c").st_mode & stat.S_ISUID
    assert stat.S_IMODE(status(bench, "x", "d/g").st_mode) == 0o700


def test_copy_destinations_wildcards_and_exclusions(bench):
    bench.write(a_dot_go="1", b_dot_go="2", c_dot_txt="3", sub__d_dot_go="4", sub__keep="5")
    bench.build(
        "FROM scratch\nCOPY *.go /go/\nCOPY sub /sub\nCOPY sub/ c.txt /both/\nCOPY c.txt /renamed\n"
        "COPY --exclude=*.go sub /without\nCOPY --parents sub/d.go ./sub/./keep /parents/\nWORKDIR /w\nCOPY c.txt .\n",
        tags=("x",),
    )
    assert set(bench.listing("x")) == {
        "go/a.go", "go/b.go", "sub/d.go", "sub/keep", "both/d.go", "both/keep", "both/c.txt", "renamed", "without/keep",
        "parents/sub/d.go", "parents/keep", "w/c.txt",
    }  # fmt: skip


def test_copy_through_a_linked_destination_stays_inside(bench):
    bench.write(f="x")
    bench.build("FROM base\nRUN mkdir /real && ln -s /real /link && ln -s /etc/../../../../real /up\n"
                "COPY f /link/\nCOPY f /up/g\n", tags=("x",))  # fmt: skip
    assert bench.read("x", "real/f") == bench.read("x", "real/g") == "x"


def test_copy_link_is_a_layer_of_its_own(bench):
    bench.write(f="x")
    first = bench.build("FROM base\nRUN echo 1 > /1\nCOPY --link f /d/f\n", tags=("x",))
    second = bench.build("FROM base\nRUN echo 2 > /2\nCOPY --link f /d/f\n", tags=("y",))
    assert first.layers[-1].diff_id == second.layers[-1].diff_id
    assert bench.read("x", "d/f") == "x"


def test_copy_from_an_image_and_a_stage_by_number(bench):
    bench.build(
        "FROM base\nRUN echo 0 > /zero\nFROM scratch\nCOPY --from=0 /zero /\nCOPY --from=base /etc/group /\n",
        tags=("x",),
    )
    assert bench.listing("x") == ["group", "zero"]


def test_add_unpacks_local_archives_and_keeps_others(bench):
    (bench.context / "a.tgz").write_bytes(tar_of({"inner": "in"}, "gz"))
    (bench.context / "fake.tgz").write_bytes(b"no archive")
    bench.build(
        "FROM scratch\nADD a.tgz fake.tgz /x/\nCOPY a.tgz /copied/\nADD --unpack=false a.tgz /kept/\n", tags=("x",)
    )
    assert bench.listing("x") == ["copied/a.tgz", "kept/a.tgz", "x/fake.tgz", "x/inner"]


def test_add_from_the_web(bench, web):
    folder, url = web
    (folder / "f.txt").write_text("body")
    (folder / "a.tgz").write_bytes(tar_of({"inner": "in"}, "gz"))
    digest = subprocess.run(["sha256sum", folder / "f.txt"], capture_output=True, text=True).stdout.split()[0]
    text = f"FROM scratch\nADD {url}/f.txt /d/\nADD --checksum=sha256:{digest} --chmod=644 {url}/f.txt /g\n"
    text += f"ADD {url}/a.tgz /kept/\nADD --unpack=true {url}/a.tgz /in/\n"
    bench.build(text, tags=("x",))
    assert bench.listing("x") == ["d/f.txt", "g", "in/inner", "kept/a.tgz"]
    assert stat.S_IMODE(status(bench, "x", "d/f.txt").st_mode) == 0o600
    assert stat.S_IMODE(status(bench, "x", "g").st_mode) == 0o644
    with pytest.raises(KedgeError, match="expected"):
        bench.build(f"FROM scratch\nADD --checksum=sha256:{'0' * 64} {url}/f.txt /\n")
    with pytest.raises(KedgeError, match="404"):
        bench.build(f"FROM scratch\nADD {url}/missing /\n")


def test_a_context_from_the_web(bench, web):
    folder, url = web
    (folder / "context.tar.gz").write_bytes(tar_of({"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, "gz"))
    (folder / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    bench.build(context=f"{url}/context.tar.gz", tags=("x",))
    assert bench.listing("x") == ["a"]
    bench.build(context=f"{url}/Dockerfile", tags=("y",))
    assert dict(config(bench, "y").labels) == {"a": "b"}


def test_the_config_says_what_the_instructions_say(bench):
    text = """\
FROM base
MAINTAINER me
ENV A=1 B="two words"
ENV C=$A A=2 D=$A
LABEL a.b="c" d='e f'
EXPOSE 80 53/udp 8000-8002
VOLUME ["/data", "/more"]
WORKDIR /a
WORKDIR b
USER bob:wheel
SHELL ["/bin/sh", "-ec"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD true
ENTRYPOINT ["/bin/echo"]
CMD hello
ONBUILD RUN echo later
"""
    bench.build(text, tags=("x",))
    found = config(bench, "x")
    assert (found.env_value("C"), found.env_value("D"), found.env_value("A")) == ("1", "1", "2")
    assert found.env_value("B") == "two words"
    assert dict(found.labels) == {"a.b": "c", "d": "e f"}
    assert set(found.exposed_ports) == {"80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp"}
    assert set(found.volumes) == {"/data", "/more"}
    assert (found.working_dir, found.user, found.stop_signal) == ("/a/b", "bob:wheel", "SIGINT")
    assert found.entrypoint == ("/bin/echo",)
    assert found.cmd == ("/bin/sh", "-ec", "hello")
    assert found.healthcheck.interval == 5 * 10**9
    assert found.on_build == ("RUN echo later",)
    assert found.author == "me"


def test_onbuild_triggers_run_in_the_next_build(bench):
    bench.write(f="x")
    bench.build("FROM base\nONBUILD COPY f /f\nONBUILD RUN cat /f > /g\n", tags=("trigger",))
    bench.build("FROM trigger\nRUN echo own > /own\n", tags=("x",))
    assert bench.read("x", "g") == "x"
    assert config(bench, "x").on_build == ()


def test_working_directories_are_made_and_shells_are_used(bench):
    bench.build('FROM base\nENV D=/deep\nWORKDIR $D/er\nSHELL ["/bin/sh", "-xc"]\nRUN pwd > where\n', tags=("x",))
    assert bench.read("x", "deep/er/where") == "/deep/er\n"


def test_stages_as_bases_in_any_case_and_arguments_in_from(bench):
    text = "ARG IMAGE=base\nFROM ${IMAGE} AS One\nRUN echo 1 > /1\n"
    text += "FROM ONE AS two\nRUN echo 2 > /2\nFROM scratch\nFROM two\n"
    bench.build(text, tags=("x",))
    assert {"1", "2"} <= set(bench.listing("x"))
    bench.build(text, tags=("y",), target="ONE")
    assert "2" not in bench.listing("y")


def test_several_platforms_make_an_index(bench):
    bench.write(f="x")
    result = bench.build("FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY f /\n",
                         platforms=("linux/amd64", "linux/arm64"), tags=("x",))  # fmt: skip
    assert [str(image.platform) for image in result.images] == ["linux/amd64", "linux/arm64"]
    assert result.target.media_type.endswith("index.v1+json")
    assert result.images[0].layers == result.images[1].layers


def test_calls_answer_and_build_nothing(bench):
    text = "# what it is\nFROM base AS one\nARG A=1\nRUN --mount=type=secret,id=s false\n"
    text += "FROM base as two\nRUN $UNDEFINED\n"
    outline = bench.build(text, call="outline", target="one").answer
    assert [arg.name for arg in outline.args] == ["A"]
    assert [secret.id for secret in outline.secrets] == ["s"]
    targets = bench.build(text, call="targets").answer
    assert [target.name for target in targets.targets] == ["one", "two"]
    warnings = bench.build(text, call="check").warnings
    assert {"FromAsCasing"} <= {warning.rule for warning in warnings}
    assert not any("RUN" in name for name in bench.steps())


def test_checks_can_be_errors(bench):
    with pytest.raises(KedgeError, match="FromAsCasing"):
        bench.build("# check=error=true\nFROM base as x\nRUN true\n")


def test_source_date_epoch_dates_the_image(bench):
    bench.build("FROM base\nRUN echo x > /x\n", tags=("x",), source_date_epoch=1546300800)
    assert config(bench, "x").created == "2019-01-01T00:00:00Z"


def test_what_means_nothing_is_refused_by_name(bench):
    with pytest.raises(InvalidInput, match="letter"):
        bench.build("FROM base\n", attestations=(("letter", ""),))
    with pytest.raises(InvalidInput, match="generated"):
        bench.build("FROM base\n", attestations=(("sbom", "generated=x"),))
    with pytest.raises(InvalidInput):
        bench.build("FROM base\n", entitlements=("everything",))


def test_names_that_are_no_utf8_are_copied_and_cached(bench):
    name = b"caf\xe9"
    (bench.context / "Dockerfile").write_bytes(b"FROM base\nCOPY caf\xe9 /\nLABEL a=\xff\nRUN test -e /caf\xe9\n")
    with open(os.path.join(os.fsencode(bench.context), name), "wb") as file:
        file.write(b"au lait")
    for _ in range(2):
        bench.build(tags=("odd",))
    assert "CACHED" in [state for step, state in bench.steps().items() if "COPY caf" in step]
    assert bench.read("odd", os.fsdecode(name)) == "au lait"
    with bench.store() as store:
        config = open_image(store, "odd").config
    assert dict(config.labels)["a"] == "\ufffd"
    assert "COPY caf\ufffd / # buildkit" in [entry.created_by for entry in config.history]


@pytest.mark.parametrize("compression", ["gzip", "estargz"])
def test_layers_with_names_that_are_no_utf8_leave_the_store(bench, tmp_path, compression):
    with open(os.path.join(os.fsencode(bench.context), b"caf\xe9"), "wb") as file:
        file.write(b"au lait")
    output = Output("oci", (("compression", compression), ("tar", "false")), tmp_path / "image")
    bench.build("FROM scratch\nCOPY caf* /\n", outputs=(output,))
    blobs = [path.read_bytes() for path in (tmp_path / "image/blobs/sha256").iterdir()]
    (layer,) = [gzip.decompress(blob) for blob in blobs if blob.startswith(b"\x1f\x8b")]
    assert b"caf\xe9" in layer
