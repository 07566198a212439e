"""The event log: offsets, pages, and what it says when it dropped something."""

from datetime import UTC, datetime, timedelta

from workflows.events import PAGE_BYTES, PAGE_EVENTS, EventEnvelope, EventLog, EventPage, Log

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def note(text: str) -> Log:
    return Log(level="info", message=text, fields=None)


def filled(count: int, *, kept: int = 10_000) -> EventLog:
    log = EventLog(kept=kept)
    for number in range(count):
        log.append(note(str(number)), NOON + timedelta(seconds=number))
    return log


def test_page_holds_what_follows_the_offset() -> None:
    """A reader that asks after an offset sees the events behind it, with their times."""
    expected = EventPage(
        events=(EventEnvelope(offset=2, time="2026-01-31T12:00:02.000Z", event=note("2")),), last_offset=2
    )
    assert filled(3).after(1) == expected


def test_page_of_a_reader_who_saw_everything_is_empty() -> None:
    """Asking again after the last offset brings nothing, and the same place to ask from."""
    assert filled(3).after(2) == EventPage(events=(), last_offset=2)


def test_page_of_an_empty_log_is_empty() -> None:
    """A run that has not told anything answers with nothing."""
    assert EventLog().after(-1) == EventPage(events=(), last_offset=-1)


def test_page_says_what_the_log_dropped() -> None:
    """A bounded log that lost events between the reader's offset and its first one counts them."""
    page = filled(10, kept=4).after(1)
    assert ([envelope.offset for envelope in page.events], page.dropped, page.more) == ([6, 7, 8, 9], 4, False)


def test_pages_cover_a_long_log_without_gap() -> None:
    """Read page by page, every event comes once, in order."""
    log, seen, after = filled(2 * PAGE_EVENTS + 5), [], -1
    while True:
        page = log.after(after)
        seen += [envelope.offset for envelope in page.events]
        after = page.last_offset
        if not page.more:
            break
    assert seen == list(range(2 * PAGE_EVENTS + 5))


def test_page_stays_under_its_size() -> None:
    """Large events make short pages: an answer of a query may not pass 2 MB."""
    log = EventLog()
    for _ in range(4):
        log.append(note("x" * (PAGE_BYTES // 2 - 1_000)), NOON)
    page = log.after(-1)
    assert (len(page.events), page.more) == (2, True)


def test_tail_goes_on_in_another_run() -> None:
    """The offsets go on where the run before continue-as-new left them."""
    before = filled(5)
    after = EventLog(first_offset=before.next_offset, tail=before.tail(2))
    after.append(note("new"), NOON)
    assert [envelope.offset for envelope in after.after(-1).events] == [3, 4, 5]
