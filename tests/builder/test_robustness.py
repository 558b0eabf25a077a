"""Builds that are killed, big, or many at once, and the store after them."""

import os
import random
import signal
import subprocess
import sys
import time

DOCKERFILE = """FROM base AS build
COPY big.txt data/ /in/
RUN --mount=type=cache,target=/c cat /in/* > /joined && echo more >> /c/log && mkdir -p /d/e && cp /joined /d/e/
RUN rm /joined && i=0; while test $i -lt 200; do echo $i > /d/$i; i=$((i+1)); done
FROM base
COPY --from=build /d /d
RUN rm -r /d/e && wc -c /d/1 > /size
"""


def start(bench, *words):
    command = [sys.executable, "-m", "kedge", "--root", str(bench.root), "build", "--progress", "quiet", *words]
    return subprocess.Popen(
        [*command, str(bench.context)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def test_killed_at_fifty_random_instants_the_store_is_whole_and_the_build_completes(bench):
    bench.write(Dockerfile=DOCKERFILE, big_dot_txt="x" * 3_000_000, **{f"data__{n}": str(n) * 1000 for n in range(50)})
    begun = time.monotonic()
    whole = start(bench, "--no-cache")
    out = whole.communicate()[0]
    assert whole.returncode == 0, out.decode()
    length = time.monotonic() - begun
    chance = random.Random(os.environ.get("KEDGE_SEED", "kedge"))
    for round in range(50):
        bench.write(big_dot_txt=f"{round}" * 2_000_000)
        child = start(bench, "-t", "x")
        time.sleep(chance.uniform(0.05, length))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if round % 5 == 4:
            with bench.store() as store:
                assert store.verify() == [], f"round {round}"
    last = start(bench, "-t", "x")
    out = last.communicate()[0]
    assert last.returncode == 0, out.decode()
    assert bench.read("x", "size") == "2 /d/1\n"
    with bench.store() as store:
        assert store.verify() == []
        assert not list((bench.root / "drafts").iterdir())


def test_two_hundred_steps_build_run_and_hit(bench):
    text = "FROM base\n" + "".join(f"RUN echo {n} > /f{n}\n" for n in range(200))
    result = bench.build(text, tags=("x",))
    assert len(result.layers) == 201
    assert sum(name.startswith("f") for name in bench.listing("x")) == 200
    assert bench.build(text, tags=("x",)).id == result.id
    assert not any("RUN" in name for name in bench.ran())


def test_two_processes_building_the_same_share_the_work(bench):
    bench.write(Dockerfile="FROM base\nRUN sleep 1; echo x > /x\nRUN echo y > /y\n")
    both = [start(bench, "-t", f"x{n}") for n in range(2)]
    for child in both:
        out = child.communicate()[0]
        assert child.returncode == 0, out.decode()
    assert bench.read("x0", "x") == bench.read("x1", "x")
    with bench.store() as store:
        assert store.verify() == []


def test_an_interrupt_ends_the_build_and_its_processes(bench):
    bench.write(Dockerfile="FROM base\nRUN echo marker; sleep 1234567\n")
    child = start(bench)
    for _ in range(1200):
        if b"sleep\x001234567" in _command_lines():
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the step never started")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode != 0
    for _ in range(600):
        if b"sleep\x001234567" not in _command_lines():
            break
        time.sleep(0.05)
    assert b"sleep\x001234567" not in _command_lines()


def _command_lines():
    found = b""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += file.read()
        except OSError:
            continue
    return found
