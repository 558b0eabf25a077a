"""A container's files from outside: what links in its layers may not do."""

from pathlib import Path

from kedge.containers.files import changed_paths


def test_changes_are_told_without_following_links_of_the_image(tmp_path: Path) -> None:
    outside, lower, upper = (tmp_path / name for name in ("outside", "lower", "upper"))
    for directory in (outside, lower, upper / "data", upper / "kept"):
        directory.mkdir(parents=True)
    (outside / "secret").touch()
    (lower / "data").symlink_to(outside)
    (lower / "kept").mkdir()
    (lower / "kept" / "old").touch()
    for path in ("data/secret", "kept/old", "kept/new"):
        (upper / path).touch()
    assert dict(changed_paths(upper, (lower,))) == {
        "/data": 0,
        "/data/secret": 1,
        "/kept": 0,
        "/kept/old": 0,
        "/kept/new": 1,
    }
