"""A part of another's budget: what is asked for, and that nothing is held while one asks."""

from workflows import allotment
from workflows.budget import FIRST_GRANT_TOKENS, NANO, Account, Bundle, Ledger, Request
from workflows.steps import Grant


def ledger(limit: int | None, consumed: int = 0, granted: int = 0) -> Ledger:
    return Ledger(tokens=Account(limit=limit, consumed=consumed, granted=granted))


def test_wanted_is_enough_for_the_first_and_a_part_of_what_was_spent() -> None:
    """The first that waits must be served by the answer; the rest is a share, and what the run has needed so far."""
    waiting = [Request(at_least=700, previous=Grant(tokens=100)), Request(), Request(at_most=50)]
    assert allotment.wanted(ledger(900, consumed=900), waiting) == Bundle(
        fresh=2, sharing=2, first_tokens=FIRST_GRANT_TOKENS + 50, resumed_tokens=1_400, at_least=700
    )
    assert allotment.wanted(ledger(9_000, consumed=9_000), waiting).resumed_tokens == 2_250


def test_wanted_dollars_are_asked_for_too() -> None:
    """In nanodollars, as the ledger has them."""
    waiting = [Request(at_least_usd=3, previous=Grant(usd=1.0))]
    assert allotment.wanted(ledger(None), waiting) == Bundle(
        fresh=0, sharing=0, first_tokens=0, resumed_tokens=0, resumed_usd=2 * NANO, at_least=0, at_least_usd=3
    )


def test_wanted_by_a_bundle_is_passed_on() -> None:
    """A child may have children of its own, which ask for their slices."""
    bundle = Bundle(fresh=3, sharing=9, first_tokens=96_000, resumed_tokens=10)
    assert allotment.wanted(ledger(0), [bundle]) == Bundle(fresh=3, sharing=3, first_tokens=96_000, resumed_tokens=10)


def test_without_rest_nothing_is_left_to_grant() -> None:
    """What steps in flight hold is theirs."""
    left = allotment.without_rest(ledger(1_000, consumed=300, granted=200))
    assert (left.tokens.limit, left.tokens.remaining, left.usd.limit) == (500, 0, None)


def test_enlarged_has_so_much_left() -> None:
    """Beside what was spent; None is no limit."""
    more = allotment.enlarged(ledger(300, consumed=300), Grant(tokens=70, usd=0.5))
    assert (more.tokens.remaining, more.usd.remaining) == (70, NANO // 2)
    assert allotment.enlarged(ledger(300, consumed=300), None).tokens.remaining is None


def test_ledger_is_told_without_what_nobody_needs() -> None:
    """A refusal brings limits and what was spent."""
    full = Ledger(tokens=Account(limit=10, consumed=4, granted=5), recorded={"a": None})
    assert allotment.as_told(full) == ledger(10, consumed=4)
