"""URLs and the hub, against a server on this machine that behaves, misbehaves, and lies."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from cluster.adapters.sources import HubSource, UrlSource
from cluster.errors import (
    AdapterDriverMissing,
    AdapterError,
    AdapterMalformed,
    AdapterPickle,
    AdapterSizeMismatch,
    AdapterSourceError,
    AdapterSourceNotFound,
    AdapterSourceRefused,
    AdapterSourceTimeout,
    AdapterTooLarge,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COMMIT = "c0ffee" + "0" * 34


class Server:
    """Answers each path with bytes or with what a function writes; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Callable[[asyncio.StreamWriter], Any]] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split(" ")[1]
            self.asked.append((path, dict(h.lower().split(": ", 1) for h in head[1:] if h)))
            answer = self.answers.get(urlsplit(path).path)
            if callable(answer):
                await answer(writer)
            elif answer is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                self.write_head(writer, f"Content-Length: {len(answer)}")
                writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def write_head(self, writer: asyncio.StreamWriter, *headers: str, status: str = "200 OK"):
        more = [f"{name}: {value}" for name, value in self.headers.items()]
        lines = [f"HTTP/1.1 {status}", *headers, *more, "Connection: close"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def redirect(self, location: str):
        async def answer(writer):
            self.write_head(writer, f"Location: {location}", status="302 Found")

        return answer


@asynccontextmanager
async def serving():
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


@pytest.fixture
async def server():
    async with serving() as server:
        yield server


@pytest.fixture
def served(server, adapter, tools):
    """The good adapter as a folder at /a and as /a.tar and /a.zip."""
    for name, content in tools.members(adapter):
        server.answers[f"/a/{name}"] = content
    server.answers["/a.tar"] = tools.tar(tools.members(adapter))
    server.answers["/a.zip"] = tools.zip(tools.members(adapter))
    return server


@pytest.fixture
def add(store, served, listing):
    def add(path: str, *, into=store, allowed: tuple[str, ...] = ("http://",)):
        return into.add(UrlSource(f"{served.url}{path}", allowed))

    return add


@pytest.mark.parametrize("path", ["/a", "/a/", "/a.tar", "/a.zip", "/a.tar?token=secret"])
async def test_folders_and_archives(add, store, path):
    store.verify((await add(path)).digest)


async def test_only_what_is_permitted_is_opened(add, served, listing):
    port = urlsplit(served.url).port
    for allowed in (
        (),
        ("https://",),
        ("http://127.0.0.1:1/",),
        (f"http://127.0.0.1:{port}/b",),
        (f"http://127.0.0.1:{port}/a.ta",),
    ):
        with pytest.raises(AdapterSourceRefused, match="list of permitted sources"):
            await add("/a.tar", allowed=allowed)
    for path in ("/b/../a.tar", "/b/%2e%2e/a.tar", "/b/%252e%252e/a.tar", "/a\\b", "/a\nb"):
        with pytest.raises(AdapterSourceRefused, match="plain path"):
            await add(path)
    assert served.asked == []
    assert listing() == []
    await add("/a.tar", allowed=(f"{served.url}/a.tar",))
    await add("/a", allowed=(f"{served.url}/a/",))


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "file:///etc",
        "local:///etc",
        "simplecache::s3://bucket/a",
        "zip://a::file:///etc/a.zip",
        "http://user:secret@127.0.0.1/a",
        "http://[::1/a",
        "data:,x",
    ],
)
async def test_what_no_list_permits(store, url):
    with pytest.raises(AdapterSourceRefused) as refusal:
        await store.add(UrlSource(url, ("http://", "file://", "local://", "zip://", "data:")))
    assert "secret" not in refusal.value.message


async def test_redirects_are_checked_too(add, served, listing):
    async with serving() as other:
        other.answers["/a.tar"] = served.answers["/a.tar"]
        served.answers["/moved.tar"] = served.redirect("/a.tar")
        served.answers["/away.tar"] = served.redirect(f"{other.url}/a.tar")
        served.answers["/file.tar"] = served.redirect("file:///etc/passwd")
        served.answers["/loop.tar"] = served.redirect("/loop.tar")
        await add("/moved.tar", allowed=(served.url,))
        await add("/away.tar", allowed=(served.url, other.url))
        other.asked.clear()
        for path in ("/away.tar", "/file.tar"):
            with pytest.raises(AdapterSourceRefused):
                await add(path, allowed=(served.url,))
        assert other.asked == []
        with pytest.raises(AdapterSourceError, match="redirects"):
            await add("/loop.tar")


async def test_what_is_not_there(add, served, listing):
    for path in ("/b", "/b.tar"):
        with pytest.raises(AdapterSourceNotFound):
            await add(path)
    del served.answers[f"/a/{WEIGHTS}"]
    with pytest.raises(AdapterMalformed, match=WEIGHTS):
        await add("/a")
    assert listing() == []


@pytest.mark.parametrize(
    ("status", "error"), [(403, AdapterSourceNotFound), (500, AdapterSourceError)]
)
async def test_other_answers(add, served, status, error):
    async def answer(writer):
        served.write_head(writer, "Content-Length: 0", status=f"{status} No")

    served.answers["/a.tar"] = answer
    with pytest.raises(error, match=str(status)) as refusal:
        await add("/a.tar")
    assert type(refusal.value) is error


async def test_lies_about_the_length(add, served, listing, make_store):
    content = served.answers["/a.tar"]

    async def short(writer):
        served.write_head(writer, f"Content-Length: {len(content)}")
        writer.write(content[:1000])

    async def huge(writer):
        served.write_head(writer, f"Content-Length: {2**50}")
        writer.write(content)

    async def endless(writer):
        served.write_head(writer)
        while not writer.is_closing():
            writer.write(bytes(2**16))
            await writer.drain()

    async def odd(writer):
        served.write_head(writer, "Content-Length: many")

    for answer, error in (
        (short, AdapterSizeMismatch),
        (huge, AdapterTooLarge),
        (endless, AdapterTooLarge),
        (odd, AdapterSourceError),
    ):
        served.answers["/a.tar"] = answer
        with pytest.raises(error) as refusal:
            await add("/a.tar", into=make_store(max_source_bytes=2**20))
        assert type(refusal.value) is error
        assert listing() == []


async def test_a_packed_transfer_is_not_unpacked(add, served):
    """A content-encoding would be a bomb before any archive is."""
    served.headers["Content-Encoding"] = "gzip"
    with pytest.raises(AdapterSourceError, match="content-encoding 'gzip'"):
        await add("/a.tar")
    assert served.asked[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize("begin", ["nothing", "head", "half"])
async def test_servers_that_hang(add, served, listing, make_store, begin):
    content = served.answers["/a.tar"]
    release = asyncio.Event()

    async def hang(writer):
        if begin != "nothing":
            served.write_head(writer, f"Content-Length: {len(content)}")
        if begin == "half":
            writer.write(content[: len(content) // 2])
        await writer.drain()
        await release.wait()

    served.answers["/a.tar"] = hang
    with pytest.raises(AdapterSourceTimeout):
        await add("/a.tar", into=make_store(stall_timeout_s=0.2))
    assert listing() == []
    release.set()


async def test_a_server_that_is_not_there(store):
    with pytest.raises(AdapterSourceError, match="ConnectError"):
        await store.add(UrlSource("http://127.0.0.1:9/a.tar", ("http://",)))


async def test_the_hub(store, served, adapter, tools, listing):
    """All files of one commit, the token for the hub alone, its file servers followed."""
    async with serving() as files:
        for name, content in tools.members(adapter):
            files.answers[f"/cdn/{name}"] = content
            for revision in ("main", COMMIT):
                served.answers[f"/me/skill/resolve/{revision}/{name}"] = served.redirect(
                    f"{files.url}/cdn/{name}"
                )
        served.headers["X-Repo-Commit"] = COMMIT
        source = HubSource("me/skill", endpoint=served.url, token="hf_secret")
        store.verify((await store.add(source)).digest)
        assert [path.split("/")[4] for path, _ in served.asked] == ["main", *[COMMIT] * 4]
        assert {headers["authorization"] for _, headers in served.asked} == {"bearer hf_secret"}
        assert not any("authorization" in headers for _, headers in files.asked)


async def test_what_the_hub_does_not_have(store, served, listing):
    with pytest.raises(AdapterSourceNotFound, match="me/none@v1"):
        await store.add(HubSource("me/none", "v1", endpoint=served.url))
    served.asked.clear()
    for repo, revision, param in (
        ("../x", "main", "source.hub"),
        ("a/b/c", "main", "source.hub"),
        ("a/..", "main", "source.hub"),
        ("a/b", "../main", "source.revision"),
        ("a/b", "", "source.revision"),
        ("a b", "main", "source.hub"),
    ):
        with pytest.raises(AdapterError) as refused:
            await store.add(HubSource(repo, revision, endpoint=served.url))
        assert (refused.value.code, refused.value.param) == ("adapter_invalid", param)
    assert served.asked == []
    assert listing() == []


async def test_the_hub_may_not_lead_to_plain_http():
    source = HubSource("me/skill")
    source._permit("https://files.example.com/x")
    with pytest.raises(AdapterSourceRefused, match="away from https"):
        source._permit("http://127.0.0.1/x")


@pytest.fixture
def bucket(adapter, tools, request):
    """An object store: fsspec's own, in memory."""
    system = fsspec.filesystem("memory", skip_instance_cache=True)
    folder = f"/{request.node.name}"
    for name, content in tools.members(adapter):
        system.pipe_file(f"{folder}/a/{name}", content)
    system.pipe_file(f"{folder}/a.zip", tools.zip(tools.members(adapter)))
    yield system, f"memory:/{folder}"
    system.rm(folder, recursive=True)


async def test_object_stores(store, bucket, listing, make_store):
    system, url = bucket
    for path in ("a", "a.zip"):
        store.verify((await store.add(UrlSource(f"{url}/{path}", ("memory://",)))).digest)
    before = listing()
    for path in ("b", "b.zip"):
        with pytest.raises(AdapterSourceNotFound):
            await store.add(UrlSource(f"{url}/{path}", ("memory://",)))
    with pytest.raises(AdapterTooLarge):
        await make_store(max_source_bytes=100).add(UrlSource(f"{url}/a.zip", ("memory://",)))
    with pytest.raises(AdapterSourceRefused):
        await store.add(UrlSource(f"{url}/a", ("s3://",)))
    folder = f"{url}/a"
    system.rm(f"{folder}/{WEIGHTS}")
    system.pipe_file(f"{folder}/adapter_model.bin", b"\x80\x04N.")
    with pytest.raises(AdapterPickle):
        await store.add(UrlSource(folder, ("memory://",)))
    assert listing() == before


@pytest.mark.parametrize("url", ["s3://bucket/a", "unheard-of://bucket/a"])
async def test_a_driver_that_is_not_installed(store, url):
    with pytest.raises(AdapterDriverMissing, match=urlsplit(url).scheme):
        await store.add(UrlSource(url, ("s3://", "unheard-of://")))


class _Hanging(AbstractFileSystem):
    """A driver whose calls come back only when the test is over."""

    protocol = "hanging"
    release = threading.Event()

    def info(self, path, **kwargs):
        self.release.wait()
        raise FileNotFoundError(path)


class _Failing(AbstractFileSystem):
    """A driver that raises its vendor's own error."""

    protocol = "failing"

    def info(self, path, **kwargs):
        raise LookupError("bucket policy")


async def test_drivers_that_hang_or_fail(make_store, listing):
    for driver in (_Hanging, _Failing):
        fsspec.register_implementation(driver.protocol, driver, clobber=True)
    allowed = ("hanging://", "failing://")
    store = make_store(fetch_timeout_s=0.2)
    with pytest.raises(AdapterSourceTimeout):
        await store.add(UrlSource("hanging://bucket/a", allowed))
    _Hanging.release.set()
    with pytest.raises(AdapterSourceError, match="LookupError: bucket policy"):
        await store.add(UrlSource("failing://bucket/a.zip", allowed))
    assert listing() == []
