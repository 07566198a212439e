"""What a run may spend of another's budget: its allotment, as the ledger of its own that it keeps.

Law: a run asks for more only when no step of it holds any, and hands back all that is left. So no two of them, each
with a part of what the other lacks, wait for each other for ever. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workflows import budget
from workflows.budget import FIRST_GRANT_TOKENS, Account, Bundle, Ledger, Request
from workflows.steps import Grant

PART_OF_SPENT = 4
# Of what a run has spent it asks for a quarter more at least: so it asks some fifteen times where its steps take thirty
# times what was thought, and never holds much that others could use.


def is_held(ledger: Ledger) -> bool:
    """Whether steps in flight hold some of it."""
    return ledger.tokens.granted > 0 or ledger.usd.granted > 0


def wanted(ledger: Ledger, requests: Sequence[Request | Bundle]) -> Bundle:
    """What to ask for where these wait: enough for the first of them at least, and a part of what was spent so far."""
    asked = [request if isinstance(request, Bundle) else _alone(request) for request in requests]
    fresh = sum(each.fresh for each in asked)
    return Bundle(
        fresh=fresh,
        sharing=fresh,
        first_tokens=sum(each.first_tokens for each in asked),
        resumed_tokens=max(ledger.tokens.consumed // PART_OF_SPENT, sum(each.resumed_tokens for each in asked)),
        resumed_usd=max(ledger.usd.consumed // PART_OF_SPENT, sum(each.resumed_usd for each in asked)),
        at_least=asked[0].at_least,
        at_least_usd=asked[0].at_least_usd,
    )


def _alone(request: Request) -> Bundle:
    """A step's request as that of a bundle."""
    at_most, previous = request.at_most, request.previous
    first = FIRST_GRANT_TOKENS if at_most is None else min(at_most, FIRST_GRANT_TOKENS)
    more = 0 if previous is None else 2 * max(request.at_least, previous.tokens or 0)
    more_usd = 0 if previous is None else 2 * max(request.at_least_usd, budget.nano(previous.usd) or 0)
    return Bundle(
        fresh=1 if previous is None else 0,
        sharing=1,
        first_tokens=first if previous is None else 0,
        resumed_tokens=more if at_most is None else min(more, at_most),
        resumed_usd=more_usd,
        at_least=request.at_least,
        at_least_usd=request.at_least_usd,
    )


def without_rest(ledger: Ledger) -> Ledger:
    """The ledger once all that is left was handed back."""
    return replace(ledger, tokens=_without_rest(ledger.tokens), usd=_without_rest(ledger.usd))


def _without_rest(account: Account) -> Account:
    return account if account.limit is None else _with_left(account, 0)


def enlarged(ledger: Ledger, more: Grant | None) -> Ledger:
    """The ledger with so much that is left; None is no limit."""
    tokens, usd = (more.tokens, budget.nano(more.usd)) if more else (None, None)
    return replace(ledger, tokens=_with_left(ledger.tokens, tokens), usd=_with_left(ledger.usd, usd))


def _with_left(account: Account, left: int | None) -> Account:
    return replace(account, limit=None if left is None else account.consumed + account.granted + left)


def as_told(ledger: Ledger) -> Ledger:
    """A budget as those are told of it whom it refuses: with it they find the reason for each of their steps."""
    return replace(budget.as_carried(ledger), recorded={})
