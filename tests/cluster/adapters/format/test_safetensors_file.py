"""The header reader accepts what the safetensors library accepts, and nothing else."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cluster.adapters.format.safetensors_file import read_header, read_tensors
from cluster.errors import AdapterError


def write(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path):
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(2, 2).bfloat16(), "c": torch.ones(4).half()}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert [(t.name, t.dtype, t.shape) for t in header.tensors] == [
        ("a", "BF16", (2, 2)),
        ("b", "F32", (3, 5)),
        ("c", "F16", (4,)),
    ]
    with path.open("rb") as file:
        for info, data in read_tensors(file, path, header):
            dtype = tensors[info.name].dtype
            read = torch.frombuffer(data, dtype=dtype).reshape(info.shape)
            assert torch.equal(read, tensors[info.name])


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": entry()}, b"1234", "expected 8 bytes of data, found 4"),
        ({"a": entry()}, b"x" * 9, "expected 8 bytes of data, found 9"),
        ({"a": entry(4, 12)}, b"x" * 12, "a: expected its data at byte 0, found 4"),
        ({"a": entry(), "b": entry()}, b"x" * 8, "at byte 8, found 0"),
        ({"a": entry(shape=(3,))}, b"x" * 8, "a: expected 12 bytes"),
        ({"a": entry(dtype="Q4")}, b"x" * 8, "known dtype, found 'Q4'"),
        ({"a": entry(shape=(-2,))}, b"x" * 8, "a: expected a shape"),
        ({"a": entry(shape=(True, 2))}, b"x" * 8, "a: expected a shape"),
        ({"a": entry(8, 0)}, b"x" * 8, "begin, end"),
        ({"a": {"dtype": "F32"}}, b"", "expected dtype, shape"),
        ({"a": entry() | {"more": 1}}, b"x" * 8, "expected dtype, shape"),
        ([1], b"", "expected an object, found list"),
        (b"{", b"", "not JSON"),
        (b'{"a":1,"a":2}', b"", "more than once: a"),
    ],
)
def test_malformed_headers_say_what_is_wrong(tmp_path, header, data, says):
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(AdapterError) as refusal:
        read_header(path)
    assert says in refusal.value.message
    assert "x.safetensors" in refusal.value.message


@pytest.mark.parametrize("content", [b"", b"1234", struct.pack("<Q", 2**60) + b"{}"])
def test_files_too_short_for_their_header(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="expected"):
        read_header(path)


def test_a_missing_file_is_an_adapter_error(tmp_path):
    with pytest.raises(AdapterError, match="No such file"):
        read_header(tmp_path / "nowhere")


def test_a_file_that_shrinks_between_header_and_data(tmp_path):
    path = write(tmp_path / "x", {"a": entry()}, b"x" * 8)
    header = read_header(path)
    write(path, {"a": entry()}, b"x" * 3)
    with path.open("rb") as file, pytest.raises(AdapterError, match="expected 8 bytes, found 3"):
        list(read_tensors(file, path, header))


@settings(max_examples=200)
@given(data=st.data())
def test_no_mutation_is_accepted_that_the_library_refuses(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    save_file({"a": torch.arange(4.0), "bb": torch.ones(2, 3)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(content) - 1))
        content[where] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        header = read_header(path)
    except AdapterError:
        return
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
    except SafetensorError as error:
        pytest.fail(f"accepted, but the library says {error}")
    assert [t.name for t in header.tensors] == names
