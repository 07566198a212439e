"""A blob store in a bucket that speaks S3: Amazon's, MinIO's and others.

Where it is and who asks is said as for every AWS tool: AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3, ~/.aws, or the role of the machine.

Law: S3 puts an object whole or not at all, and shows it to all at once. No message quotes what S3 answers beyond its
code: its texts name accounts and keys.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from activities.blobs.store import BlobNotFound, Piece, StoreUnavailable, checked_key, framed, unframed
from workflows.errors import SettingsRejected

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?", re.IGNORECASE)
# Bucket names by Amazon's rules; a prefix of the names that keys are made of.
PREFIX_LENGTH = 200
# S3 takes keys of 1,024 bytes, and ours take 640.

REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
# Amazon's tools disagree on the name; boto3 knows only the second.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

THREADS = 16
# Requests at once. One waits some 30 ms for S3; the SDK asks for that many payloads of a workflow task.
CONNECT_SECONDS = 2
READ_SECONDS = 10
# A request that takes longer is lost; the store's users try again.

LISTED_AT_ONCE = 1_000
# S3's own page, and the most that it deletes at once.

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})

REMEDIES = {
    "NoSuchBucket": "Create the bucket, or name another in PERDURE_BLOBS.",
    "AccessDenied": "Allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on it.",
    "403": "Allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on it.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID, or the profile in use.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY, or the profile in use.",
    "ExpiredToken": "Renew the credentials.",
    "PermanentRedirect": "Set AWS_REGION to the region of the bucket.",
    "NoCredentialsError": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role.",
    "EndpointConnectionError": "Check AWS_ENDPOINT_URL_S3 and the network.",
}
"""What helps, by the code that S3 answers or the name of the error that kept the request from being answered."""

T = TypeVar("T")


class S3Store:
    """A blob store in a bucket, under a prefix that may be empty."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        # Its own threads: a slow bucket must not keep those busy in which agents and file tools run.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="perdure-s3")

    async def put(self, key: str, data: bytes) -> None:
        """Keep a piece; S3 has it when this returns. Twice leaves the latest."""
        name = self._name(key)
        await self._asked(
            f"put {key!r} into",
            lambda: self._client.put_object(Bucket=self._bucket, Key=name, Body=framed(data)),
        )

    async def get(self, key: str) -> bytes:
        """The piece as it was put. Raises `BlobNotFound` or `BlobCorrupt`."""
        name = self._name(key)
        return await self._asked(f"get {key!r} from", lambda: self._get(key, name), missing=key)

    async def holds(self, key: str) -> bool:
        """Whether there is a piece with this key."""
        name = self._name(key)
        try:
            await self._asked(
                f"look for {key!r} in", lambda: self._client.head_object(Bucket=self._bucket, Key=name), missing=key
            )
        except BlobNotFound:
            return False
        return True

    async def list(self, prefix: str) -> Sequence[str]:
        """The keys under a prefix, sorted; none where there is nothing."""
        return sorted([piece.key async for piece in self.pieces(prefix)])

    async def pieces(self, prefix: str) -> AsyncIterator[Piece]:
        """Every piece under a prefix, those of one folder one after the other."""
        found = self._pieces(f"{self._name(prefix)}/")
        while batch := await self._asked(f"list {prefix!r} in", lambda: list(islice(found, LISTED_AT_ONCE))):
            for piece in batch:
                yield piece

    async def delete(self, prefix: str) -> int:
        """Remove the keys under a prefix; how many there were. What is written meanwhile may stay."""
        keys = await self.list(prefix)
        await self.remove(keys)
        return len(keys)

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove these pieces. One that is gone already is no error."""
        for first in range(0, len(keys), LISTED_AT_ONCE):
            names = [self._name(key) for key in keys[first : first + LISTED_AT_ONCE]]
            await self._asked("remove pieces from", lambda names=names: self._remove(names))  # type: ignore[misc]

    def _name(self, key: str) -> str:
        return f"{self._prefix}{checked_key(key)}"

    def _get(self, key: str, name: str) -> bytes:
        return unframed(key, self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read())

    def _pieces(self, prefix: str) -> Iterator[Piece]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for found in page.get("Contents", ()):
                yield Piece(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"])

    def _remove(self, names: Sequence[str]) -> None:
        answer = self._client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
        for refused in answer.get("Errors", ()):
            raise _unavailable("remove pieces from", self._bucket, refused.get("Code", "an unknown error"))

    async def _asked(self, doing: str, request: Callable[[], T], *, missing: str | None = None) -> T:
        """What S3 answers. Raises `StoreUnavailable`, or `BlobNotFound` for the key that may be missing."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "an unknown error")
            if missing is not None and code in MISSING:
                raise BlobNotFound(missing) from None
            raise _unavailable(doing, self._bucket, code) from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise _unavailable(doing, self._bucket, type(error).__name__) from None

    @cached_property
    def _client(self) -> S3Client:
        """Made in the first request's thread: loading the library takes a third of a second."""
        import boto3
        from botocore.config import Config

        has_endpoint = any(os.environ.get(name) for name in ENDPOINT_VARIABLES)
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=THREADS,
            retries={"total_max_attempts": 1},  # the users of the store try again, and know how long they may
            # Our frame has a checksum, and not every S3 takes Amazon's newer ones.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Who serves S3 at an address of their own seldom has a host name for each bucket.
            s3={"addressing_style": "path" if has_endpoint else "auto"},
        )
        region = next((os.environ[name] for name in REGION_VARIABLES if os.environ.get(name)), None)
        return boto3.session.Session().client("s3", region_name=region, config=config)


def open_bucket(setting: str) -> S3Store:
    """The store of an address `s3://bucket/prefix`, which is not reached yet. Raises `SettingsRejected`."""
    found = ADDRESS.fullmatch(setting)
    if found is None or len(found[2]) > PREFIX_LENGTH:
        # Not quoted: people write keys into such addresses.
        raise SettingsRejected(
            "PERDURE_BLOBS is no address of a bucket. Write it as s3://bucket/prefix, the prefix of letters, digits, "
            f"'-', '_' and '.', at most {PREFIX_LENGTH} characters; keys and endpoint go into the AWS_* variables."
        )
    if importlib.util.find_spec("boto3") is None:
        raise SettingsRejected(
            f"PERDURE_BLOBS is {setting!r}, and the library for S3 is not installed. "
            "Install it with `pip install 'perdure[s3]'`."
        )
    return S3Store(found[1], found[2].strip("/"))


def _unavailable(doing: str, bucket: str, code: str) -> StoreUnavailable:
    remedy = f" {REMEDIES[code]}" if code in REMEDIES else ""
    return StoreUnavailable(f"Could not {doing} the bucket {bucket!r}: {code}.{remedy}")
