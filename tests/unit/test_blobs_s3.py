"""The store in a bucket, over HTTP to a server on loopback that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from activities.blobs import BlobCorrupt, BlobNotFound, Checkpoints, KeyRejected, StoreUnavailable, open_store, s3
from activities.blobs.s3 import S3Store
from runtime.local import free_port
from workflows.errors import SettingsRejected, is_retryable
from workflows.steps import Usage

SECRET = "wJalrXUtnFEMI-this-is-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    serving = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    yield f"http://{host}:{port}"
    serving.stop()


@pytest.fixture(autouse=True)
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest) -> Any:
    name = f"b{abs(hash(request.node.name))}"
    bucket = boto3.resource("s3", region_name="eu-central-1").Bucket(name)
    bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return bucket


@pytest.fixture
def store(bucket: Any) -> S3Store:
    opened = open_store(f"s3://{bucket.name}/perdure/prod")
    assert isinstance(opened, S3Store)
    return opened


async def test_s3_gives_back_what_was_put(store: S3Store, bucket: Any) -> None:
    """A piece is read as it was written, under the prefix, and the latest of two writes wins."""
    await store.put("a/b", b"one\n")
    await store.put("a/b", b"\x00two")
    await store.put("a/c", b"")
    await store.put("ab/d", b"x")
    assert (await store.get("a/b"), await store.get("a/c")) == (b"\x00two", b"")
    assert (await store.list("a"), await store.list("nothing")) == (["a/b", "a/c"], [])
    assert [await store.holds(key) for key in ("a/b", "a", "z")] == [True, False, False]
    assert sorted(found.key for found in bucket.objects.all()) == [
        "perdure/prod/a/b",
        "perdure/prod/a/c",
        "perdure/prod/ab/d",
    ]


async def test_s3_tells_of_its_pieces_over_several_pages(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing goes on until all are told, and deleting takes the keys under a prefix only."""
    monkeypatch.setattr(s3, "LISTED_AT_ONCE", 2)
    for number in range(5):
        await store.put(f"steps/1/{number}", b"12345")
    await store.put("steps/10/0", b"x")
    told = [piece async for piece in store.pieces("steps/1")]
    assert [piece.key for piece in told] == [f"steps/1/{number}" for number in range(5)]
    assert {piece.size for piece in told} == {5 + 82}
    assert all(abs(datetime.now(UTC) - piece.written) < timedelta(minutes=1) for piece in told)
    await store.remove(["steps/1/0", "steps/1/9"])
    assert (await store.delete("steps/1"), await store.delete("steps/1")) == (4, 0)
    assert await store.list("steps") == ["steps/10/0"]


async def test_s3_misses_and_refuses_by_name(store: S3Store, bucket: Any) -> None:
    """A key that nobody put, that is no key, or whose object was changed is a typed error."""
    with pytest.raises(BlobNotFound) as missing:
        await store.get("steps/1/a")
    assert str(missing.value) == "The blob store holds no piece 'steps/1/a'. It was deleted, or this is another store."
    with pytest.raises(KeyRejected):
        await store.get("../a")
    await store.put("steps/1/a", b"12345")
    kept = bucket.Object("perdure/prod/steps/1/a")
    kept.put(Body=kept.get()["Body"].read()[:-1] + b"!")
    with pytest.raises(BlobCorrupt, match="its content does not match its checksum"):
        await store.get("steps/1/a")


async def test_s3_keeps_checkpoints(store: S3Store) -> None:
    """Another worker finds what a step left in the bucket."""
    left = Checkpoints(store, "k")
    for turn in (1, 2):
        await left.append({"turn": turn}, Usage(input_tokens=turn))
    assert [piece.value for piece in await Checkpoints(store, "k").all()] == [{"turn": 1}, {"turn": 2}]


async def test_s3_without_a_bucket_says_what_to_do() -> None:
    """A bucket that is not there is worth another attempt, once somebody has made it."""
    store = open_store("s3://no-such-bucket")
    assert store is not None
    with pytest.raises(StoreUnavailable) as told:
        await store.put("a", b"x")
    assert str(told.value) == (
        "Could not put 'a' into the bucket 'no-such-bucket': NoSuchBucket. "
        "Create the bucket, or name another in PERDURE_BLOBS."
    )
    assert is_retryable(told.value)
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        await store.get("a")


async def test_s3_that_does_not_answer_is_worth_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost network is told with what was being done, at once and without a retry of the library's own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    store = open_store("s3://bucket/prefix")
    assert store is not None
    with pytest.raises(StoreUnavailable) as told:
        await store.get("a")
    assert str(told.value) == (
        "Could not get 'a' from the bucket 'bucket': EndpointConnectionError. "
        "Check AWS_ENDPOINT_URL_S3 and the network."
    )


async def test_s3_without_credentials_says_where_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Who has no credentials is told the variables, and never a value of them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    store = open_store("s3://bucket")
    assert store is not None
    with pytest.raises(StoreUnavailable) as told:
        await store.get("a")
    assert str(told.value) == (
        "Could not get 'a' from the bucket 'bucket': NoCredentialsError. Set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role."
    )


@pytest.mark.parametrize(
    "setting",
    ["s3://", "s3://B", f"s3://an-id:{SECRET}@bucket/x", f"s3://bucket/x?secret={SECRET}", "s3://bucket/a/../b"],
)
def test_s3_refuses_an_address_without_quoting_it(setting: str) -> None:
    """An address that is none is refused at the start; what people write into addresses may be secret."""
    with pytest.raises(SettingsRejected) as rejected:
        open_store(setting)
    assert rejected.value.message == (
        "PERDURE_BLOBS is no address of a bucket. Write it as s3://bucket/prefix, the prefix of letters, digits, "
        "'-', '_' and '.', at most 200 characters; keys and endpoint go into the AWS_* variables."
    )


def test_s3_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the setting is refused, with the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsRejected) as rejected:
        open_store("s3://bucket/x")
    assert rejected.value.message == (
        "PERDURE_BLOBS is 's3://bucket/x', and the library for S3 is not installed. "
        "Install it with `pip install 'perdure[s3]'`."
    )
