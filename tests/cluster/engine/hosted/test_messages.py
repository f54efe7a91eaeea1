"""Messages come out of a socket as they went in, however they were cut on the way."""

import socket

import pytest

from cluster.engine.hosted.messages import (
    Abort,
    Answer,
    Frames,
    Generate,
    HostSampling,
    HostTokens,
    StepDone,
    decode_from_host,
    decode_to_host,
    frame,
)

SAMPLING = HostSampling(
    max_tokens=5,
    min_tokens=0,
    stop_token_ids=(2,),
    temperature=0.1 + 0.2,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    seed=2**62 + 1,
    presence_penalty=0.0,
    frequency_penalty=-2.5,
    repetition_penalty=1.0,
    logit_bias=((3, -1e-9),),
    grammar="",
    logprobs=None,
    prompt_logprobs=2,
)


@pytest.mark.parametrize(
    "message",
    [
        Generate(7, [1, 2], 0, (("3@abc#1", -0.7),), "namespace", SAMPLING),
        Abort([1, 2]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_to_the_host_comes_out_as_it_went_in(message: Generate | Abort) -> None:
    assert decode_to_host(frame(message)[4:]) == message


@pytest.mark.parametrize("cut", [1, 3, 5, 60])
def test_messages_are_put_together_again(cut: int) -> None:
    steps = [
        StepDone(0.5, [(1, 0, 9)], [HostTokens(1, [5], logprobs=[(-0.5, [(5, -0.5)])])], 30, 0),
        Answer(3, "no room"),
    ]
    data = b"".join(map(frame, steps))
    ours, theirs = socket.socketpair()
    frames, found = Frames(), []
    with ours, theirs:
        for start in range(0, len(data), cut):
            theirs.sendall(data[start : start + cut])
            received = frames.receive(ours)
            assert received is not None
            found += map(decode_from_host, received)
        theirs.close()
        assert frames.receive(ours) is None
    assert found == steps
