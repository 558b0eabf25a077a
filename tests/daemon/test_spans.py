"""The trace of an ended build."""

import json

from kedge.daemon.wire import content, control


def test_a_finalized_record_has_a_span_for_each_step(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    request = client.request(Frontend="dockerfile.v0")
    client.control.unary("Solve", request, timeout=60)
    client.control.unary("UpdateBuildHistory", control.UpdateBuildHistoryRequest(Ref=request.Ref, Finalize=True))
    asked = control.BuildHistoryRequest(Ref=request.Ref, EarlyExit=True)
    (event,) = client.control.listen("ListenBuildHistory", asked)
    trace = event.record.trace
    assert trace.size
    reader = client._channel.unary_stream(
        "/containerd.services.content.v1.Content/Read",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=content.ReadContentResponse.FromString,
    )
    data = b"".join(part.data for part in reader(content.ReadContentRequest(digest=trace.digest)))
    spans = [json.loads(line) for line in data.splitlines()]
    assert spans[0]["ChildSpanCount"] == len(spans) - 1
    assert any(span["Name"].startswith("[1/1] COPY") for span in spans)
    assert {span["Parent"]["SpanID"] for span in spans[1:]} == {spans[0]["SpanContext"]["SpanID"]}
