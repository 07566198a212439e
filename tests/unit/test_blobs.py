"""The folder store and the checkpoints in it, over real files."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from activities.blobs import (
    BlobCorrupt,
    BlobNotFound,
    Checkpoint,
    Checkpoints,
    FolderStore,
    KeyRejected,
    StoreUnavailable,
    open_store,
    plain_json,
)
from workflows.errors import SettingsRejected, is_retryable
from workflows.steps import Usage


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


async def test_store_gives_back_what_was_put(store: FolderStore) -> None:
    """A piece is read as it was written, and the latest of two writes wins."""
    await store.put("a/b", b"one\n")
    await store.put("a/b", b"\x00two")
    await store.put("a/c", b"")
    await store.put("ab/d", b"x")
    assert (await store.get("a/b"), await store.get("a/c")) == (b"\x00two", b"")
    assert await store.list("a") == ["a/b", "a/c"]
    assert await store.list("nothing") == []


async def test_store_deletes_by_prefix(store: FolderStore, tmp_path: Path) -> None:
    """Deleting takes the keys under a prefix, and no neighbour whose name starts alike."""
    for key in ("steps/1/a", "steps/1/b", "steps/10/a"):
        await store.put(key, b"x")
    (tmp_path / "blobs/steps/1/.unfinished-0").write_bytes(b"left by a killed writer")
    assert await store.list("steps/1") == ["steps/1/a", "steps/1/b"]
    assert await store.delete("steps/1") == 2
    assert await store.delete("steps/1") == 0
    assert await store.list("steps") == ["steps/10/a"]
    assert not (tmp_path / "blobs/steps/1").exists()


async def test_store_tells_of_its_pieces_and_removes_some(store: FolderStore, tmp_path: Path) -> None:
    """Pieces are told with size and time without being read; what is removed leaves no empty folder behind."""
    for key in ("steps/1/a", "steps/1/b", "steps/2/a"):
        await store.put(key, b"12345")
    left = tmp_path / "blobs/steps/2/.unfinished-0"
    left.write_bytes(b"left by a killed writer")
    os.utime(left, (0, 0))
    told = {piece.key: piece async for piece in store.pieces("steps")}
    assert sorted(told) == ["steps/1/a", "steps/1/b", "steps/2/a"]
    assert {piece.size for piece in told.values()} == {5 + 82}
    assert all(abs(datetime.now(UTC) - piece.written) < timedelta(minutes=1) for piece in told.values())
    assert [await store.holds(key) for key in ("steps/1/a", "steps/1", "steps/9/a")] == [True, False, False]
    await store.remove(["steps/1/a", "steps/2/a", "steps/9/a"])
    assert await store.list("steps") == ["steps/1/b"]
    assert not (tmp_path / "blobs/steps/2").exists()


async def test_store_misses_by_name(store: FolderStore) -> None:
    """A key that nobody put is named in a typed error."""
    with pytest.raises(BlobNotFound) as missing:
        await store.get("steps/1/a")
    assert str(missing.value) == (
        "The blob store holds no piece 'steps/1/a'. It was deleted, or this is another store."
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda stored: stored[:-1], "it has 4 bytes and 5 were written"),
        (lambda stored: stored[:-1] + b"!", "its content does not match its checksum"),
        (lambda stored: b"", "it does not start with a blob's first line"),
        (lambda stored: stored[20:], "it does not start with a blob's first line"),
    ],
    ids=["torn", "changed", "empty", "no-head"],
)
async def test_store_refuses_a_corrupt_piece(store: FolderStore, tmp_path: Path, change, found: str) -> None:  # type: ignore[no-untyped-def]
    """What is not what was written is never handed out as data."""
    await store.put("a/b", b"12345")
    file = tmp_path / "blobs/a/b"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(BlobCorrupt) as corrupt:
        await store.get("a/b")
    assert str(corrupt.value) == f"The piece 'a/b' of the blob store is corrupt: {found}. Restore it, or delete it."


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/.hidden",
        "a\\b",
        "a b",
        "a/",
        "é",
        "a\n",
        "x" * 201,
        "a/" * 320 + "a",
    ],
)
async def test_store_refuses_a_key_that_is_no_safe_name(store: FolderStore, key: str) -> None:
    """No key leads out of the folder, for no operation."""
    for operation in (store.put(key, b""), store.get(key), store.list(key), store.delete(key)):
        with pytest.raises(KeyRejected):
            await operation


async def test_store_takes_concurrent_writers(store: FolderStore, tmp_path: Path) -> None:
    """Many writers and a deleter at once leave one whole piece and nothing unfinished."""
    contents = [bytes([number]) * 50_000 for number in range(12)]

    async def write(content: bytes) -> None:
        await store.put("shared/deep/key", content)

    await asyncio.gather(*(write(content) for content in contents), store.delete("shared"))
    await write(contents[0])
    assert await store.get("shared/deep/key") == contents[0]
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["key"]


async def test_store_that_does_not_take_a_piece_is_worth_another_attempt(tmp_path: Path) -> None:
    """A full disk or a lost mount is a retryable error that says what was being done."""
    (tmp_path / "blobs").write_bytes(b"a file where the folder was")
    with pytest.raises(StoreUnavailable) as lost:
        await FolderStore(tmp_path / "blobs").put("a", b"x")
    assert is_retryable(lost.value)
    assert str(lost.value) == "Could not put 'a' into the blob store: File exists."


async def test_store_is_for_its_own_user(tmp_path: Path) -> None:
    """Files and folders are closed to others: a transcript holds whatever an agent read."""
    store = open_store(str(tmp_path / "blobs"))
    assert store is not None
    await store.put("steps/k/a", b"x")
    made = [tmp_path / "blobs", *(tmp_path / "blobs").rglob("*")]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in made} == {
        "blobs": "0o700",
        "steps": "0o700",
        "k": "0o700",
        "a": "0o600",
    }


def test_store_whose_mount_went_away_is_not_begun_anew(tmp_path: Path) -> None:
    """Where the folder that holds the store is gone, a piece is refused and nothing is made."""
    with pytest.raises(StoreUnavailable) as lost:
        asyncio.run(FolderStore(tmp_path / "mount/blobs").put("a", b"x"))
    assert str(lost.value) == f"Could not put 'a' into the blob store: the folder {tmp_path / 'mount'} is missing."
    assert list(tmp_path.iterdir()) == []


def test_open_store_makes_its_folder(tmp_path: Path) -> None:
    """A path is a folder store, made where it is missing; nothing set is no store."""
    assert isinstance(open_store(str(tmp_path / "blobs")), FolderStore)
    assert (tmp_path / "blobs").is_dir()
    assert (open_store(None), open_store("")) == (None, None)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "gs://bucket",
            "PERDURE_BLOBS: 'gs' addresses are not supported. "
            "Give the path of a folder that all workers share, or s3://bucket/prefix.",
        ),
        (
            "/no/mount/x",
            "PERDURE_BLOBS is '/no/mount/x', and there is no folder '/no/mount'. Mount it, or make it.",
        ),
        ("/dev/null", "PERDURE_BLOBS is '/dev/null', which cannot be made (File exists)."),
    ],
)
def test_open_store_refuses_what_it_cannot_use(setting: str, told: str) -> None:
    """A setting that cannot be served is refused at the worker's start, saying what to give."""
    with pytest.raises(SettingsRejected) as rejected:
        open_store(setting)
    assert rejected.value.message == told


async def test_checkpoints_come_back_in_order(store: FolderStore) -> None:
    """Another reader finds the latest value, and all of them in order, with what was spent until then."""
    left = Checkpoints(store, "k-1")
    assert (await left.latest(), await left.all()) == (None, [])
    references = [await left.append({"turn": turn}, Usage(input_tokens=turn)) for turn in (1, 2, 3)]
    chain = [
        Checkpoint({"turn": turn}, Usage(input_tokens=turn), reference)
        for turn, reference in zip((1, 2, 3), references, strict=True)
    ]
    found = Checkpoints(store, "k-1")
    assert await found.all() == chain
    assert await found.latest() == chain[-1]
    assert [len(reference) for reference in references] == [len("steps/k-1/000001-") + 16] * 3
    later = await Checkpoints(store, "k-1").append("on", Usage())
    assert later.startswith("steps/k-1/000004-")


async def test_checkpoints_name_their_content(store: FolderStore) -> None:
    """A reference ends with the hash of what it refers to."""
    reference = await Checkpoints(store, "k").append([1], Usage())
    assert reference.rpartition("-")[2] == hashlib.sha256(await store.get(reference)).hexdigest()[:16]


async def test_checkpoints_pass_over_a_corrupt_piece(store: FolderStore, tmp_path: Path) -> None:
    """A torn piece costs what came after the one before it, and is told in the log."""
    left = Checkpoints(store, "k")
    first = await left.append("first", Usage(input_tokens=1))
    torn = await left.append("second", Usage(input_tokens=2))
    (tmp_path / "blobs" / torn).write_bytes(b"perdure-bl")
    with capture_logs() as logs:
        assert await Checkpoints(store, "k").latest() == Checkpoint("first", Usage(input_tokens=1), first)
    assert logs == [
        {
            "log_level": "warning",
            "event": "A checkpoint cannot be read and is passed over.",
            "reference": torn,
            "error": f"The piece '{torn}' of the blob store is corrupt: it does not start with a blob's first line. "
            "Restore it, or delete it.",
        }
    ]
    third = await Checkpoints(store, "k").append("third", Usage())
    assert third.startswith("steps/k/000003-"), "a number once given, to whatever piece, is not given again"


async def test_checkpoints_of_a_broken_chain_end_before_the_break(store: FolderStore, tmp_path: Path) -> None:
    """Turns after a lost one are no transcript: the chain that is whole from its first piece on is read."""
    left = Checkpoints(store, "k")
    references = [await left.append(turn, Usage()) for turn in range(4)]
    (tmp_path / "blobs" / references[2]).unlink()
    with capture_logs():
        assert [piece.value for piece in await Checkpoints(store, "k").all()] == [0, 1]


async def test_checkpoints_go_on_after_the_chain_that_was_read(store: FolderStore, tmp_path: Path) -> None:
    """What is appended follows the pieces that were read, not a newer one that hangs in the air."""
    left = Checkpoints(store, "k")
    references = [await left.append(turn, Usage(input_tokens=turn)) for turn in range(4)]
    (tmp_path / "blobs" / references[2]).write_bytes(b"torn")
    with capture_logs():
        reader = Checkpoints(store, "k")
        assert [piece.value for piece in await reader.all()] == [0, 1]
        again = await reader.append("2, once more", Usage(input_tokens=9))
        last = await reader.append("3, once more", Usage(input_tokens=10))
        found = Checkpoints(store, "k")
        assert [piece.value for piece in await found.all()] == [0, 1, "2, once more", "3, once more"]
        assert await found.latest() == Checkpoint("3, once more", Usage(input_tokens=10), last)
    assert again.startswith("steps/k/000005-")


async def test_checkpoints_without_a_whole_chain_begin_anew(store: FolderStore, tmp_path: Path) -> None:
    """Where the first piece is lost there is nothing to go on from, and the new beginning is found again."""
    left = Checkpoints(store, "k")
    references = [await left.append(turn, Usage()) for turn in range(3)]
    (tmp_path / "blobs" / references[0]).unlink()
    with capture_logs():
        reader = Checkpoints(store, "k")
        assert await reader.latest() == Checkpoint(2, Usage(), references[2])
        assert await reader.all() == []
        await reader.append("anew", Usage())
        assert [piece.value for piece in await Checkpoints(store, "k").all()] == ["anew"]


async def test_checkpoints_of_overlapping_attempts_do_not_mix(store: FolderStore) -> None:
    """Two attempts that write at once leave two chains; the longer one is read, whole."""
    await Checkpoints(store, "k").append("common", Usage())
    lost, living = Checkpoints(store, "k"), Checkpoints(store, "k")
    await asyncio.gather(lost.latest(), living.latest())
    for value in ("lost 2", "lost 3"):
        await lost.append(value, Usage())
    for value in ("living 2", "living 3", "living 4"):
        await living.append(value, Usage())
    assert [piece.value for piece in await Checkpoints(store, "k").all()] == [
        "common",
        "living 2",
        "living 3",
        "living 4",
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, {"b": b"x"}]}, "at 'a.1.b': input was not a valid JSON value"),
        ({1: 2}, "at '1': Input should be a valid string"),
        (float("nan"), "Out of range float values are not JSON compliant"),
    ],
    ids=["bytes", "key", "nan"],
)
def test_plain_json_refuses_what_json_would_change(value: object, told: str) -> None:
    """Only what comes back as it went is JSON."""
    with pytest.raises(ValueError, match=r".") as refused:
        plain_json(value)
    assert str(refused.value) == told
