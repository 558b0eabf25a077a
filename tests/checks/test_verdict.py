"""Verdicts over real layers: whom a breach is blamed on, what is remembered, what is not looked at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.checks.advice import StageFiles
from kedge.checks.verdict import Breach, Subject, judge
from kedge.model.graph import Layer
from kedge.model.image import History, ImageConfig
from kedge.model.value import replace
from kedge.storage.store import Store
from tests.checks.conftest import HOST, MAIN, Compile

pytestmark = pytest.mark.namespace  # mounts

KEY = b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"
CMD = ImageConfig(HOST, cmd=("/app",), history=(History("COPY a"), History("COPY b"), History("CMD", empty_layer=True)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def layer(store: Store, **files: bytes) -> Layer:
    """A layer; `__` in a name stands for `/`."""
    with store.layers.draft() as draft:
        for name, data in files.items():
            path = Path(draft.upper) / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755)
        return draft.commit("")


def no_stages() -> tuple[StageFiles, ...]:
    return ()


def judged(store: Store, subject: Subject, *stages: StageFiles) -> list[Breach]:
    return list(judge(store, subject, lambda: stages))


def test_the_stage_that_has_what_is_missing_is_named(store: Store, compiled: Compile) -> None:
    program = compiled(MAIN)
    from tests.checks.conftest import libraries_of_host

    system = {path.strip("/").replace("/", "__"): Path(path).read_bytes() for path in libraries_of_host(program)}
    release = b"ID=debian\nVERSION_CODENAME=bookworm\n"
    build = layer(store, etc__os__release=b"", **system, **{"etc__os-release": release})
    image = Subject(CMD, (layer(store, app=program.read_bytes()),), (0,))
    breach = judged(store, image, StageFiles("build", (build,), "golang:1.25"))[0]
    assert breach.rule == "EntrypointNotRunnable"
    assert breach.anchor == "CMD"
    assert breach.message.startswith("CMD /app cannot start: /app needs the loader /lib")
    assert breach.remedy == (
        "Stage build has them. Use a base with glibc, such as debian:bookworm-slim, or link the program statically "
        "(-static)"
    )


def test_a_missing_library_alone_is_told_with_its_place(store: Store, compiled: Compile) -> None:
    library = compiled("int f(void) { return 1; }\n", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libown.so.1")
    text = "int f(void); int _start(void) { return f(); }\n"
    program = compiled(text, "-nostdlib", str(library), "-Wl,--dynamic-linker,/lib/ld-linux.so")
    image = Subject(CMD, (layer(store, app=program.read_bytes(), **{"lib__ld-linux.so": b"x"}),), (0,))
    build = layer(store, **{"usr__lib__libown.so.1": library.read_bytes()})
    breach = judged(store, image, StageFiles("build", (build,)))[0]
    assert "needs the library libown.so.1, which the final image lacks" in breach.message
    assert breach.remedy.startswith("Stage build has it (/usr/lib/libown.so.1). COPY ")


def test_a_missing_interpreter_has_a_base_that_would_do(store: Store) -> None:
    image = Subject(CMD, (layer(store, app=b"#!/usr/bin/python3\n"),), (0,))
    assert judged(store, image)[0].remedy == "Use a base that has it, such as python:3-slim"
    image = Subject(CMD, (layer(store, app=b"#!/bin/bash\n"),), (0,))
    build = layer(store, bin__bash=b"x", **{"etc__os-release": b"ID=ubuntu\nVERSION_ID=24.04\n"})
    remedy = judged(store, image, StageFiles("build", (build,)))[0].remedy
    assert remedy == "Stage build has /bin/bash. Use a base that has it, such as ubuntu:24.04"


def test_a_program_that_is_elsewhere_has_a_remedy(store: Store) -> None:
    image = Subject(CMD, (layer(store, apps=b"x", other=b""),), (0,))
    assert judged(store, image)[0].remedy == "Did you mean /apps?"
    image = replace(image, stages=("build",))
    remedy = judged(store, image, StageFiles("build", (layer(store, app=b"x"),)))[0].remedy
    assert remedy == "Stage build has /app. COPY --from=build /app /app"


def test_ldconfig_is_proposed_where_it_would_do(store: Store, compiled: Compile) -> None:
    library = compiled("int f(void) { return 1; }\n", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libown.so.1")
    text = "int f(void); int _start(void) { return f(); }\n"
    program = compiled(text, "-nostdlib", str(library), "-Wl,--dynamic-linker,/lib/ld-linux.so")
    files = {"lib__ld-linux.so": b"x", "usr__local__lib__libown.so.1": library.read_bytes()}
    image = Subject(CMD, (layer(store, app=program.read_bytes(), **files),), (0,))
    assert "RUN ldconfig" in judged(store, image)[0].remedy


def test_a_breach_is_blamed_on_the_layer_that_brings_it(store: Store) -> None:
    lower = layer(store, root__id_rsa=KEY)
    upper = layer(store, usr__bin__make=b"x" * 1000)
    config = ImageConfig(HOST, history=CMD.history)
    found = judged(store, Subject(config, (lower, upper), (None, 1)))
    assert [(one.rule, one.anchor) for one in found] == [("BuildToolsInFinalStage", 1)]
    found = judged(store, Subject(config, (lower, upper), (0, 1)))
    assert [(one.rule, one.anchor) for one in found] == [("SecretsInFinalStage", 0), ("BuildToolsInFinalStage", 1)]
    assert found[0].message == "secrets in the final image: a private key in /root/id_rsa (59B)"


def test_what_a_later_layer_deletes_still_ships(store: Store) -> None:
    lower = layer(store, root__id_rsa=KEY)
    with store.layers.draft((lower,)) as draft:
        with draft.tree() as tree:
            import os

            os.unlink("root/id_rsa", dir_fd=tree.fd)
        upper = draft.commit("")
    message = judged(store, Subject(ImageConfig(HOST, history=CMD.history), (lower, upper), (0, 1)))[0].message
    assert message.endswith("; a later instruction deletes it, yet the layer ships")


def test_names_do_not_steer_the_terminal(store: Store) -> None:
    evil = layer(store, **{"root\x1b[31m\udcff__id_rsa": KEY})
    message = judged(store, Subject(ImageConfig(HOST, history=CMD.history), (evil,), (0,)))[0].message
    assert "\ufffd[31m\ufffd/id_rsa" in message
    assert message.isprintable()


def test_small_caches_are_not_worth_a_word(store: Store) -> None:
    config = ImageConfig(HOST, history=CMD.history)
    small = layer(store, root__hi=b"", var__lib__apt__lists__a=b"x" * 1000)
    large = layer(store, var__lib__apt__lists__a=b"x" * (2 << 20))
    assert judged(store, Subject(config, (small,), (0,))) == []
    found = judged(store, Subject(config, (large,), (0,)))
    assert [one.rule for one in found] == ["PackageCacheInFinalStage"]
    assert "apt's package lists in /var/lib/apt/lists (2.1MB)" in found[0].message


def test_an_image_to_build_with_is_one_finding(store: Store) -> None:
    base = layer(store, usr__bin__gcc=b"x")
    upper = layer(store, usr__bin__make=b"x", **{"src__go.mod": b"", "src__a.go": b"x"})
    config = ImageConfig(HOST, history=CMD.history)
    found = judged(store, Subject(config, (base, upper), (None, 1), "golang:1.25"))
    assert [(one.rule, one.anchor) for one in found] == [("BuildToolsInFinalStage", "FROM")]
    assert judged(store, Subject(config, (base, upper), (None, 1), "golang:1.25", is_final=False)) == []


def test_a_verdict_is_remembered_and_costs_no_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(ImageConfig(HOST, history=CMD.history), (layer(store, root__id_rsa=KEY),), (0,))
    first = judge(store, subject, no_stages)
    monkeypatch.setattr(store.layers, "directory", None)
    monkeypatch.setattr(store.layers, "mounted", None)
    assert judge(store, subject, no_stages) == first
    assert len(first) == 1


def test_layers_that_are_not_here_are_not_fetched(store: Store) -> None:
    from kedge.model.digest import sha256
    from kedge.model.image import OCI_LAYER, Descriptor

    lazy = store.layers.declare(sha256(b"x"), Descriptor(OCI_LAYER, sha256(b"x"), 1), "nowhere")
    upper = layer(store, root__id_rsa=KEY)
    found = judged(store, Subject(CMD, (lazy, upper), (None, 1)))
    assert [one.rule for one in found] == ["SecretsInFinalStage"]
    assert not store.layers.info(lazy).ready
