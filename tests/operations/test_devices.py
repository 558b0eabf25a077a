"""Devices by CDI: found by name, described by the machine only."""

import json

import pytest

from kedge.model.errors import InvalidInput, NotFound, Unsupported
from kedge.operations.devices import edits_for


@pytest.fixture
def folder(tmp_path):
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [
            {
                "name": "0",
                "containerEdits": {"env": ["GPU=0"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}]},
            },
            {
                "name": "1",
                "containerEdits": {"mounts": [{"hostPath": "/lib", "containerPath": "/gpu", "options": ["ro"]}]},
            },
            {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "x", "path": "/bin/x"}]}},
        ],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(spec))
    return tmp_path


def test_a_device_brings_variables_nodes_and_mounts(folder):
    edits = edits_for([("vendor.com/gpu=0", False), ("vendor.com/gpu=1", False)], [folder])
    assert edits.env == ("ALL=1", "GPU=0")
    assert [(m.dest, m.source.path, m.readonly) for m in edits.mounts] == [
        ("/dev/gpu0", "/dev/zero", False), ("/gpu", "/lib", True),
    ]  # fmt: skip


def test_a_kind_alone_is_its_first_device(folder):
    assert edits_for([("vendor.com/gpu", False)], [folder]).env == ("ALL=1", "GPU=0")


def test_a_missing_one_is_an_error_unless_optional(folder):
    assert edits_for([("vendor.com/gpu=9", True)], [folder]).mounts == ()
    with pytest.raises(NotFound, match="no device"):
        edits_for([("vendor.com/gpu=9", False)], [folder])


@pytest.mark.parametrize("name", ["../etc", "gpu", "vendor.com/gpu=../x", "vendor.com/gpu=a b", ""])
def test_names_are_names(folder, name):
    with pytest.raises(InvalidInput):
        edits_for([(name, False)], [folder])


def test_hooks_and_malformed_files_are_refused(folder):
    with pytest.raises(Unsupported):
        edits_for([("vendor.com/gpu=hooked", False)], [folder])
    (folder / "bad.json").write_text("{")
    with pytest.raises(InvalidInput, match="no JSON"):
        edits_for([("vendor.com/gpu=0", False)], [folder])
