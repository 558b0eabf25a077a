"""A check through the gateway answers for files that can be built, and for those that cannot."""

import json
import threading

from kedge.daemon.wire import control, gateway


def check(client, **attrs):
    """The document that a frontend.lint request comes to."""
    request = client.request()
    call = client.control._call(client._channel.unary_unary, "Solve").future(request)
    names = (("buildkit-controlapi-buildid", request.Ref),)
    asked = gateway.SolveRequest(
        Frontend="dockerfile.v0",
        FrontendOpt={"requestid": "frontend.lint"} | attrs,
        allowResultReturn=True,
        allowResultArrayRef=True,
    )
    solved = client.bridge.unary("Solve", asked, metadata=names)
    threading.Thread(target=call.cancel, daemon=True).start()
    return json.loads(solved.result.metadata["result.json"])


def test_a_file_that_cannot_be_read_is_part_of_the_answer(connect, context):
    (context / "Dockerfile").write_text("FROM scratch AS Bad\nBADCMD\n")
    found = check(connect(directories={"context": context, "dockerfile": context}))
    assert [one["detail"] for one in found["warnings"]] == ["Stage name 'Bad' should be lowercase"]
    assert found["buildError"]["message"] == "dockerfile parse error on line 2: unknown instruction: BADCMD"
    assert found["buildError"]["location"]["ranges"][0]["start"] == {"line": 2}


def test_warnings_that_are_errors_are_told_as_one(connect, context):
    (context / "Dockerfile").write_text("# check=error=true\nFROM scratch AS Bad\nCOPY a.txt /\n")
    found = check(connect(directories={"context": context, "dockerfile": context}))
    assert found["buildError"]["message"] == "lint violation found for rules: StageNameCasing"


def test_a_build_that_makes_no_image_is_not_told_that_it_could_not_start(connect, context):
    (context / "Dockerfile").write_text('FROM scratch\nCOPY a.txt /\nCMD ["/none"]\n')
    client = connect(directories={"context": context, "dockerfile": context})
    _response, status = client.solve(Frontend="dockerfile.v0")
    assert not status.warnings
    _response, status = client.solve(
        Frontend="dockerfile.v0", Exporters=[control.Exporter(Type="image", Attrs={"name": "x"})]
    )
    assert b"EntrypointNotRunnable" in status.warnings[0].short
