"""The driver between Temporal's external storage and a blob store, without a server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriverActivityInfo,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
    WorkflowSerializationContext,
)

from activities.blobs import BlobCorrupt, Checkpoints, FolderStore, StoreUnavailable, payloads
from activities.blobs.payloads import (
    PayloadDriver,
    PayloadMissing,
    PayloadOutOfReach,
    driver_type,
    escaped,
    unescaped,
)
from runtime.codec import EncryptionCodec, SealedStore
from runtime.sealed import NoStoreDriver
from workflows.errors import PayloadLocked, PayloadTooLarge, SettingsRejected
from workflows.steps import Usage

KEY, OTHER = bytes([1]) * 32, bytes([2]) * 32
PAYLOAD = Payload(metadata={"encoding": b"json/plain"}, data=b'"the secret plan"')
OF_A_RUN = StorageDriverStoreContext(StorageDriverWorkflowInfo(namespace="default", id="report/7", run_id="r-1"))
OF_A_START = StorageDriverStoreContext(StorageDriverWorkflowInfo(namespace="default", id="report/7"))
OF_NOBODY = StorageDriverStoreContext(StorageDriverActivityInfo(namespace="default", id="1"))
READING = StorageDriverRetrieveContext()


class Watched(FolderStore):
    """A folder store that fails as often as it is told to, and counts."""

    def __init__(self, folder: Path, failures: int = 0) -> None:
        super().__init__(folder)
        self.failures = failures
        self.puts = 0
        self.looks = 0

    async def put(self, key: str, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("Could not put it: a hiccup.")
        self.puts += 1
        await super().put(key, data)

    async def holds(self, key: str) -> bool:
        self.looks += 1
        return await super().holds(key)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "blobs")


@pytest.fixture
def driver(store: Watched, monkeypatch: pytest.MonkeyPatch) -> PayloadDriver:
    monkeypatch.setattr(payloads, "PAUSES_SECONDS", (0.0,) * len(payloads.PAUSES_SECONDS))
    return PayloadDriver(lambda: store, "here")


def key_of(claim: StorageDriverClaim) -> str:
    return claim.claim_data["key"]


async def test_driver_gives_back_what_was_stored(driver: PayloadDriver, store: Watched) -> None:
    """A payload comes back as it was, from a key that names its workflow, its run and its hash."""
    claims = await driver.store(OF_A_RUN, [PAYLOAD, Payload(data=b"x")])
    assert await driver.retrieve(READING, claims) == [PAYLOAD, Payload(data=b"x")]
    assert [key_of(claim).rpartition("/")[0] for claim in claims] == ["payloads/default/report_2F7/r-1"] * 2
    assert sorted(key_of(claim) for claim in claims) == await store.list("payloads")


async def test_driver_stores_the_same_payload_once(driver: PayloadDriver, store: Watched) -> None:
    """A second time it is known here; another process asks the store before it writes."""
    first = await driver.store(OF_A_RUN, [PAYLOAD])
    assert await driver.store(OF_A_RUN, [PAYLOAD]) == first
    assert (store.puts, store.looks) == (1, 1)
    assert await PayloadDriver(lambda: store, "here").store(OF_A_RUN, [PAYLOAD]) == first
    assert (store.puts, store.looks) == (1, 2)


async def test_driver_keeps_what_has_no_run_by_the_day(driver: PayloadDriver) -> None:
    """The input of a run that has no id yet stands under its workflow; what no workflow owns stands apart."""
    (start,) = await driver.store(OF_A_START, [PAYLOAD])
    (other,) = await driver.store(OF_NOBODY, [PAYLOAD])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    assert key_of(start).rpartition("/")[0] == f"payloads/default/report_2F7/{day}"
    assert key_of(other).rpartition("/")[0] == f"unowned/{day}"


async def test_driver_that_only_reads_makes_the_same_references(driver: PayloadDriver, store: Watched) -> None:
    """A replay refers to what the run has stored, and stores nothing."""
    reading = PayloadDriver(lambda: store, "here", only_reads=True)
    assert [key_of(claim) for claim in await reading.store(OF_A_RUN, [PAYLOAD])] == [
        key_of(claim) for claim in await driver.store(OF_A_RUN, [PAYLOAD])
    ]
    assert store.puts == 1


@pytest.mark.parametrize("failures", [1, 5])
async def test_driver_tries_again_where_the_store_does_not_answer(
    driver: PayloadDriver, store: Watched, failures: int
) -> None:
    """A hiccup of the store passes unseen."""
    store.failures = failures
    await driver.store(OF_A_RUN, [PAYLOAD])
    assert store.puts == 1


async def test_driver_says_that_the_store_does_not_answer(driver: PayloadDriver, store: Watched) -> None:
    """After some seconds it is told, and is worth another attempt of whoever asked."""
    store.failures = 6
    with pytest.raises(PayloadOutOfReach) as told:
        await driver.store(OF_A_RUN, [PAYLOAD])
    assert told.value.message == (
        "A payload cannot be stored in the blob store 'here' of PERDURE_BLOBS. Could not put it: a hiccup."
    )
    assert not told.value.non_retryable


async def test_driver_waits_for_a_payload_that_shows_late(driver: PayloadDriver, store: Watched) -> None:
    """A shared mount may show a new file to another machine a moment later."""
    (claim,) = await driver.store(OF_A_RUN, [PAYLOAD])
    await store.remove([key_of(claim)])
    tries = 0

    async def shows(key: str) -> bytes:
        nonlocal tries
        tries += 1
        if tries == 3:
            await store.put(key, PAYLOAD.SerializeToString(deterministic=True))
        return await FolderStore.get(store, key)

    store.get = shows  # type: ignore[method-assign]
    assert await driver.retrieve(READING, [claim]) == [PAYLOAD]


async def test_driver_names_a_payload_that_is_missing(driver: PayloadDriver) -> None:
    """It is final, and says which key, which store and which setting."""
    with pytest.raises(PayloadMissing) as missing:
        await driver.retrieve(READING, [StorageDriverClaim({"key": "payloads/default/a/r/0"})])
    assert missing.value.message == (
        "The payload 'payloads/default/a/r/0' is not in the blob store 'here'. Set PERDURE_BLOBS to the store that "
        "the run's other workers and its starter have, or restore the piece."
    )
    assert missing.value.non_retryable


async def test_driver_refuses_a_payload_that_is_damaged(driver: PayloadDriver, store: Watched, tmp_path: Path) -> None:
    """Neither a torn file nor another payload under its name is ever handed out."""
    (claim,) = await driver.store(OF_A_RUN, [PAYLOAD])
    await store.put(key_of(claim), b"another payload, whole")
    with pytest.raises(PayloadMissing, match="is damaged in the blob store 'here'"):
        await driver.retrieve(READING, [claim])
    (tmp_path / "blobs" / key_of(claim)).write_bytes(b"perdure-bl")
    with pytest.raises(PayloadMissing, match="is damaged in the blob store 'here'"):
        await driver.retrieve(READING, [claim])


async def test_driver_refuses_what_is_too_large_for_the_store(driver: PayloadDriver) -> None:
    """Whoever passes more than the store takes is told the limit; nothing is stored."""
    with pytest.raises(PayloadTooLarge) as refused:
        await driver.store(OF_A_RUN, [Payload(data=bytes(21_000_000))])
    assert refused.value.message == (
        "run 'report/7': a payload is 21.0 MB and the limit is 20.0 MB. Shorten it, or pass a reference to it."
    )


async def test_driver_does_not_hold_the_event_loop(driver: PayloadDriver) -> None:
    """While 15 MB are stored and fetched, the loop serves others."""
    longest, last = 0.0, time.monotonic()

    async def ticking() -> None:
        nonlocal longest, last
        while True:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await asyncio.sleep(0.001)

    tick = asyncio.create_task(ticking())
    claims = await driver.store(OF_A_RUN, [Payload(data=bytes(15_000_000))])
    await driver.retrieve(READING, claims)
    tick.cancel()
    assert longest < 0.5


async def test_driver_that_cannot_open_its_store_does_not_fail_a_run(driver: PayloadDriver) -> None:
    """A setting that cannot be used is final for who starts a process, and worth another attempt for a run."""

    def refuse() -> FolderStore:
        raise SettingsRejected("PERDURE_BLOBS is '/no/mount/x', and there is no folder '/no/mount'.")

    with pytest.raises(PayloadOutOfReach) as told:
        await PayloadDriver(refuse, "/no/mount/x").store(OF_A_RUN, [PAYLOAD])
    assert told.value.message == "PERDURE_BLOBS is '/no/mount/x', and there is no folder '/no/mount'."


async def test_no_store_names_the_setting() -> None:
    """Where no store is set, a reference is answered with the remedy."""
    with pytest.raises(PayloadOutOfReach) as told:
        await NoStoreDriver().retrieve(READING, [StorageDriverClaim({"key": "payloads/default/a/r/0"})])
    assert told.value.message == (
        "The payload 'payloads/default/a/r/0' is in a blob store, and there is none here. "
        "Set PERDURE_BLOBS to the store of the run's workers."
    )


def test_drivers_of_one_place_have_one_type() -> None:
    """Workers tell the server the type: it shows whether two have the same store, and not where that is."""
    assert driver_type("s3://a/b") == driver_type("s3://a/b") != driver_type("/blobs")
    assert driver_type("s3://secret/b").startswith("perdure.blobs.")
    assert "secret" not in driver_type("s3://secret/b")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("report-7", "report-7"),
        ("report/7", "report_2F7"),
        ("a_b", "a_5Fb"),
        (".hidden", "_2Ehidden"),
        ("v1.2", "v1.2"),
        ("é ü", "_C3_A9_20_C3_BC"),
        ("__", "_5F_5F"),
    ],
)
def test_names_are_one_part_of_a_key(name: str, part: str) -> None:
    """Any workflow id is a safe name, and can be told from it."""
    assert (escaped(name), unescaped(part)) == (part, name)


def test_names_that_are_too_long_are_known_by_their_hash() -> None:
    """The key stays a key; who owns it cannot be told."""
    part = escaped("x" * 300)
    assert (len(part), unescaped(part)) == (66, None)


async def test_codec_seals_what_is_stored_to_the_same_bytes() -> None:
    """Within one workflow a large payload seals to the same bytes; a small one, or another workflow's, does not."""
    codec = EncryptionCodec(KEY, stored_from=1_000)
    large = Payload(data=b"x" * 2_000)
    one, other = (
        codec.with_context(WorkflowSerializationContext(namespace="default", workflow_id=name)) for name in ("a", "b")
    )
    sealed = [(await bound.encode([large]))[0] for bound in (one, one, other)]
    assert sealed[0] == sealed[1] != sealed[2]
    assert await codec.decode(sealed) == [large] * 3
    small = [(await one.encode([PAYLOAD]))[0] for _ in range(2)]
    assert small[0] != small[1]
    assert (await EncryptionCodec(KEY).encode([large]))[0] != (await EncryptionCodec(KEY).encode([large]))[0]


@pytest.fixture
def sealed(store: Watched) -> SealedStore:
    return SealedStore(store, EncryptionCodec(KEY))


async def test_sealed_store_shows_nothing_and_gives_back_all(sealed: SealedStore, store: Watched) -> None:
    """Checkpoints go through it as through any store, and nobody reads them without the key."""
    left = Checkpoints(sealed, "k")
    reference = await left.append({"turn": "the secret plan"}, Usage(input_tokens=1))
    assert b"secret" not in await store.get(reference)
    latest = await Checkpoints(sealed, "k").latest()
    assert latest is not None
    assert latest.value == {"turn": "the secret plan"}
    with pytest.raises(PayloadLocked):
        await SealedStore(store, EncryptionCodec(OTHER)).get(reference)


async def test_sealed_store_reads_what_is_not_sealed(sealed: SealedStore, store: Watched) -> None:
    """Encryption can be switched on while steps run."""
    await store.put("steps/k/a", b"from before")
    assert await sealed.get("steps/k/a") == b"from before"


async def test_sealed_store_refuses_a_piece_of_another_name(sealed: SealedStore, store: Watched) -> None:
    """A piece that was moved, or cut, is no piece."""
    await sealed.put("steps/k/a", b"x")
    await store.put("steps/k/b", await store.get("steps/k/a"))
    with pytest.raises(BlobCorrupt, match="it was sealed under another name"):
        await sealed.get("steps/k/b")
    await store.put("steps/k/c", b"perdure-sealed 1\n\xff\xff")
    with pytest.raises(BlobCorrupt, match="it begins as a sealed piece and is none"):
        await sealed.get("steps/k/c")
