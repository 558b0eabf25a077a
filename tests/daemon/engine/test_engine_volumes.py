"""Volumes, with Docker's own client and with `kedge run`."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.daemon.engine.conftest import Docker


def test_a_volume_outlives_its_containers(docker: Docker) -> None:
    assert docker("volume", "create", "--label", "a=b", "kept") == "kept\n"
    docker("run", "--rm", "-v", "kept:/d", "busybox", "sh", "-c", "echo hi > /d/f")
    done = docker.run("run", "--rm", "-v", "kept:/d:ro", "busybox", "sh", "-c", "cat /d/f; touch /d/x")
    assert done.stdout == "hi\n"
    assert "Read-only" in done.stderr
    document = json.loads(docker("volume", "inspect", "kept"))[0]
    assert (document["Name"], document["Driver"], document["Labels"]) == ("kept", "local", {"a": "b"})
    assert docker("volume", "ls", "-q", "--filter", "label=a=b") == "kept\n"
    docker("volume", "rm", "kept")
    assert "no such volume" in docker.run("volume", "inspect", "kept").stderr
    assert docker.run("volume", "rm", "kept").returncode == 1
    docker("volume", "rm", "-f", "kept")


def test_a_volume_that_is_used_stays(docker: Docker) -> None:
    id = docker("create", "--name", "user", "--mount", "type=volume,src=used,dst=/d", "busybox", "true").strip()
    assert f"volume is in use - [{id}]" in docker.run("volume", "rm", "used").stderr
    mount = json.loads(docker("inspect", "-f", "{{json .Mounts}}", "user"))[0]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == ("volume", "used", "/d", True)
    assert docker("ps", "-aq", "--no-trunc", "--filter", "volume=used").strip() == id
    docker("rm", "-v", "user")
    docker("volume", "rm", "used")  # -v takes away what was made for the container only


def test_an_image_fills_a_new_volume_with_what_it_has_there(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir -m 750 /data && echo first > /data/f && ln -s f /data/l && chown -R 7:8 /data\n"
    )
    docker("build", "-q", "-t", "filled", tmp_path)
    look = ("sh", "-c", "stat -c '%u:%g:%a' /data; cat /data/l; stat -c '%u:%g' /data/f; echo changed > /data/f")
    expected = "7:8:750\nfirst\n7:8\n"
    assert docker("run", "--rm", "-v", "full:/data", "filled", *look) == expected
    assert docker("run", "--rm", "-v", "full:/data", "filled", "cat", "/data/f") == "changed\n"
    assert docker("run", "--rm", "-v", "empty:/data:nocopy", "filled", "ls", "-A", "/data") == ""
    docker("volume", "rm", "full", "empty")


def test_volumes_of_the_image_go_with_the_container_that_removes_itself(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN mkdir /v && echo in > /v/f\nVOLUME /v /new\n")
    docker("build", "-q", "-t", "with-volumes", tmp_path)
    docker("volume", "prune", "-af")
    script = "cat /v/f; echo more > /v/g; touch /new/x"
    assert docker("run", "--rm", "--read-only", "with-volumes", "sh", "-c", script) == "in\n"
    assert docker("volume", "ls", "-q") == ""
    docker("run", "--name", "own", "with-volumes", "sh", "-c", script)
    assert len(docker("volume", "ls", "-q").split()) == 2
    assert docker("diff", "own") == ""
    docker("rm", "own")
    assert len(docker("volume", "ls", "-qf", "dangling=true").split()) == 2
    docker("volume", "create", "named")
    freed = docker("volume", "prune", "-f")
    assert "Total reclaimed space: 0B" not in freed
    assert docker("volume", "ls", "-q") == "named\n"
    assert "named" in docker("volume", "prune", "-af")


def test_usage_tells_bytes_and_users(docker: Docker) -> None:
    fill = "dd if=/dev/zero of=/d/z bs=1M count=2 2>/dev/null"
    docker("run", "--name", "filler", "-v", "big:/d", "busybox", "sh", "-c", fill)
    rows = json.loads(docker("system", "df", "-v", "--format", "json"))["Volumes"]
    row = next(row for row in rows if row["Name"] == "big")
    assert (row["Links"], row["Size"][:3]) == ("1", "2.1")
    docker("rm", "filler")
    assert "Total reclaimed space: 2.1" in docker("volume", "prune", "-af")


def test_copying_into_a_container_that_does_not_run_reaches_its_volumes(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("copied")
    docker("create", "--name", "holder", "-v", "held:/d", "busybox", "true")
    docker("cp", tmp_path / "f", "holder:/d/")
    assert docker("run", "--rm", "-v", "held:/d", "busybox", "cat", "/d/f") == "copied"
    docker("run", "--rm", "-v", "held:/d", "busybox", "sh", "-c", "mkdir /d/e; echo deep > /d/e/g; ln -s /etc /d/out")
    docker("cp", "holder:/d/e", tmp_path / "e")
    assert (tmp_path / "e" / "g").read_text() == "deep\n"
    docker("cp", "holder:/d", tmp_path / "whole")
    assert (tmp_path / "whole" / "e" / "g").read_text() == "deep\n"
    assert docker.run("cp", "holder:/d/out/passwd", tmp_path / "p").returncode == 1
    docker("rm", "holder")
    docker("volume", "rm", "held")


def test_what_volumes_are_not_is_said(docker: Docker, tmp_path: Path) -> None:
    for words in (["-o", "type=nfs", "x"], ["-d", "other", "x"], ["a/b"], [".hidden"]):
        done = docker.run("volume", "create", *words)
        assert done.returncode == 1, words
        assert done.stderr
    done = docker.run("create", "-v", f"{tmp_path}:/x", "--mount", "type=tmpfs,dst=/x", "busybox", "true")
    assert "Duplicate mount point: /x" in done.stderr


def test_a_bind_whose_source_went_hides_no_container(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    docker("create", "--name", "lost", "--mount", f"type=bind,src={tmp_path}/there,dst=/x", "busybox", "true")
    (tmp_path / "there").rmdir()
    assert "lost" in docker("ps", "-a")
    assert f"{tmp_path}/there" in docker.run("start", "lost").stderr
    assert not (tmp_path / "there").exists()
    docker("rm", "lost")


def test_kedge_run_has_the_same_volumes(docker: Docker, tmp_path: Path) -> None:
    def kedge(*words: str) -> str:
        return docker.service.kedge("run", *words)

    kedge("-v", "shared:/d", "busybox", "sh", "-c", "echo by-kedge > /d/f")
    assert docker("run", "--rm", "-v", "shared:/d", "busybox", "cat", "/d/f") == "by-kedge\n"
    before = docker("volume", "ls", "-q")
    assert kedge("--read-only", "-v", "/anonymous", "busybox", "sh", "-c", "touch /anonymous/x; ls /anonymous") == "x\n"
    assert docker("volume", "ls", "-q") == before
    docker("create", "--name", "holds", "-v", "shared:/d", "busybox")
    with pytest.raises(subprocess.CalledProcessError):
        docker.service.kedge("volume", "rm", "shared")
    docker("rm", "holds")
    assert "shared" in docker.service.kedge("volume", "ls")
    assert docker.service.kedge("volume", "rm", "shared") == "shared\n"
    assert "shared" not in docker("volume", "ls")


def test_tmpfs_has_its_size_and_mode(docker: Docker) -> None:
    look = ("sh", "-c", "df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t")
    assert docker("run", "--rm", "--tmpfs", "/t:size=1m,mode=700", "busybox", *look) == "1024\n700\n"
    mount = "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700"
    assert docker("run", "--rm", "--mount", mount, "busybox", *look) == "1024\n700\n"
