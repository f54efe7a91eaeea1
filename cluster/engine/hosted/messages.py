"""Defines the messages between a replica and its engine host: data only, MessagePack in frames.

Both sides import this module, from two environments with different packages, so it needs msgspec
and the standard library alone. A frame is its length in four bytes and one message.

To the host: ``Start`` first, then ``Generate``, ``Abort`` and the calls. From the host: ``Ready``
or ``Failed`` first, then a ``StepDone`` for each step and an ``Answer`` for each call. It does what
it is sent in that order, and between steps only.
"""

import socket
import struct

import msgspec

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 18


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Says which model to load, and how much it may take."""

    model: str  # folder
    dtype: str
    max_model_len: int
    max_batch_size: int
    max_batch_tokens: int
    block_size: int
    device: str  # "auto", "cpu" or "cuda"
    kv_blocks: int
    kv_blocks_named: bool  # they were asked for; else a GPU gets what its memory has room for
    kv_bytes: int | None  # in place of ``kv_blocks``
    prefix_cache: bool
    eager: bool  # no compiled or captured steps
    slots: int
    max_rank: int
    tensor_parallel: int
    seed: int  # of the draws for requests without one
    options: dict[str, object]  # more of the engine's own arguments, by name


class HostSampling(msgspec.Struct, frozen=True, array_like=True):
    """Holds the parameters of choosing tokens, as ``SamplingParams`` has them.

    What ended or was counted before a sequence came here is worked in: these are for the tokens
    that are still to come.
    """

    max_tokens: int  # at least 1
    min_tokens: int
    stop_token_ids: tuple[int, ...]  # the model's own included, where they count
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    grammar: str
    logprobs: int | None
    prompt_logprobs: int | None


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Starts one sequence."""

    id: int  # never used before
    token_ids: list[int]  # all that is known of it
    resumed: int  # of these, tokens of its completion, at the end
    adapters: tuple[tuple[str, float], ...]  # (name that it was loaded under, weight)
    namespace: str  # sequences share keys and values within it alone
    sampling: HostSampling


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Ends sequences; no later message is about them."""

    ids: list[int]


class LoadAdapter(msgspec.Struct, frozen=True, tag="load"):
    """Loads an adapter under a name that is free."""

    call: int
    name: str
    folder: str  # in PEFT's format


class UnloadAdapter(msgspec.Struct, frozen=True, tag="unload"):
    """Frees the place of an adapter that no sequence uses."""

    call: int
    name: str


class CountLive(msgspec.Struct, frozen=True, tag="count"):
    """Asks how many sequences the engine holds."""

    call: int


ToHost = Start | Generate | Abort | LoadAdapter | UnloadAdapter | CountLive


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Says what was loaded."""

    max_model_len: int
    vocab_size: int
    kv_blocks: int
    device_type: str  # "cpu" or "cuda"
    device_name: str
    version: str  # of the engine


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Says why the host ends; its process does so next."""

    message: str


class HostTokens(msgspec.Struct, frozen=True, array_like=True):
    """Carries what one step brought for a sequence."""

    id: int
    token_ids: list[int]
    finish: str = ""  # "stop", "length", "error" or, while it goes on, nothing
    cached: int | None = None  # tokens found in the prefix cache, with the first ones
    logprobs: list[tuple[float, list[tuple[int, float]]]] = []  # of each token
    prompt_logprobs: list[tuple[float, list[tuple[int, float]]]] = []  # after the prompt's first
    problem: str = ""  # with "error"


class StepDone(msgspec.Struct, frozen=True, tag="step"):
    """Carries what one step computed."""

    seconds: float
    computed: list[tuple[int, int, int]]  # (sequence, tokens known before, tokens computed)
    tokens: list[HostTokens]
    kv_free: int  # blocks, after it
    preempted: int  # sequences that lost their keys and values for it


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Answers a call."""

    call: int
    problem: str = ""  # why it could not be done
    live: int = 0  # sequences
    kv_free: int = 0  # blocks


FromHost = Ready | Failed | StepDone | Answer

_encoder = msgspec.msgpack.Encoder()
_to_host = msgspec.msgpack.Decoder(ToHost)
_from_host = msgspec.msgpack.Decoder(FromHost)


def frame(message: ToHost | FromHost) -> bytes:
    """Return a message as it goes over the socket."""
    data = _encoder.encode(message)
    return _LENGTH.pack(len(data)) + data


def decode_to_host(data: bytes) -> ToHost:
    """Decode one message.

    Raises:
        msgspec.ValidationError: the bytes are none of these messages.
    """
    message: ToHost = _to_host.decode(data)
    return message


def decode_from_host(data: bytes) -> FromHost:
    """Decode one message.

    Raises:
        msgspec.ValidationError: the bytes are none of these messages.
    """
    message: FromHost = _from_host.decode(data)
    return message


class Frames:
    """Cuts what a socket receives into messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def receive(self, connection: socket.socket) -> list[bytes] | None:
        """Read once from a socket and return the whole messages that are there now.

        None if the other side has ended.
        """
        try:
            data = connection.recv(_READ_BYTES)
        except ConnectionError:
            return None
        if not data:
            return None
        self._pending += data
        return self._whole()

    def _whole(self) -> list[bytes]:
        whole, start = [], 0
        while len(self._pending) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._pending, start)
            end = start + _LENGTH.size + size
            if len(self._pending) < end:
                break
            whole.append(bytes(self._pending[start + _LENGTH.size : end]))
            start = end
        del self._pending[:start]
        return whole
