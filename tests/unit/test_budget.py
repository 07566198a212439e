"""The ledger's law, whatever the order of grants, settlements and raises."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from workflows import budget
from workflows.budget import (
    NANO,
    Account,
    BudgetChange,
    Decision,
    Denied,
    Granted,
    Ledger,
    MustWait,
    Request,
    UsageReport,
)
from workflows.steps import Grant, RunOptions, TokensNeeded, Usage

HELD = Grant(tokens=100, usd=0.5)


def limited(limit: int, *, consumed: int = 0, granted: int = 0) -> Ledger:
    return Ledger(tokens=Account(limit=limit, consumed=consumed, granted=granted))


class Spending(RuleBasedStateMachine):
    """Steps ask, spend at most what they were granted, and settle, while the limit is raised and reports come in."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = budget.opened(RunOptions(budget_tokens=1_000))
        self.billed = 0

    @rule(
        target=held,
        sharing=st.integers(1, 50),
        at_least=st.integers(0, 400),
        at_most=st.none() | st.integers(1, 500),
        previous=st.none() | st.integers(1, 300),
    )
    def ask(self, sharing: int, at_least: int, at_most: int | None, previous: int | None) -> Grant | None:
        """A step asks."""
        request = Request(sharing, at_least, at_most, None if previous is None else Grant(tokens=previous))
        return self._given(budget.grant(self.ledger, request), at_least)

    @rule(
        target=held,
        fresh=st.integers(0, 300),
        waiting=st.integers(0, 300),
        resumed=st.integers(0, 400),
        at_least=st.integers(0, 400),
    )
    def ask_together(self, fresh: int, waiting: int, resumed: int, at_least: int) -> Grant | None:
        """A bundle of steps asks for an allotment."""
        bundle = budget.Bundle(fresh, fresh + waiting, fresh * budget.FIRST_GRANT_TOKENS, resumed, at_least=at_least)
        return self._given(budget.allot(self.ledger, bundle), at_least)

    def _given(self, decision: Decision, at_least: int) -> Grant | None:
        if not isinstance(decision, Granted):
            return None
        self.ledger = decision.ledger
        assert decision.grant is not None
        assert decision.grant.tokens is not None
        assert decision.grant.tokens >= max(1, at_least)
        return decision.grant

    @rule(grant=consumes(held), share=st.floats(0, 1))
    def settle(self, grant: Grant | None, share: float) -> None:
        """A step ends, having spent a part of its grant."""
        if grant is None or grant.tokens is None:
            return
        spent = int(grant.tokens * share)
        self.billed += spent
        self.ledger = budget.settle(self.ledger, grant, Usage(total_tokens=spent))

    @rule(more=st.integers(0, 500))
    def raise_limit(self, more: int) -> None:
        """Somebody raises the limit."""
        assert self.ledger.tokens.limit is not None
        self.ledger = budget.change(self.ledger, BudgetChange(limit_tokens=self.ledger.tokens.limit + more))

    @invariant()
    def law(self) -> None:
        """Consumed + granted never passes the limit, and consumed is what was billed."""
        account = self.ledger.tokens
        assert account.limit is not None
        assert account.consumed + account.granted <= account.limit
        assert account.consumed == self.billed


TestSpending = Spending.TestCase


@pytest.mark.parametrize(
    ("ledger", "request_", "decision"),
    [
        pytest.param(limited(100), Request(), Granted(limited(100, granted=100), Grant(tokens=100)), id="what is left"),
        pytest.param(
            limited(100), Request(sharing=4), Granted(limited(100, granted=25), Grant(tokens=25)), id="a fair share"
        ),
        pytest.param(
            limited(1_000_000),
            Request(),
            Granted(limited(1_000_000, granted=32_000), Grant(tokens=32_000)),
            id="at most the first grant",
        ),
        pytest.param(
            limited(100), Request(at_most=60), Granted(limited(100, granted=60), Grant(tokens=60)), id="its max_tokens"
        ),
        pytest.param(
            limited(100),
            Request(previous=Grant(tokens=20)),
            Granted(limited(100, granted=40), Grant(tokens=40)),
            id="twice as much after a suspension",
        ),
        pytest.param(
            limited(100),
            Request(previous=Grant(tokens=20), at_least=30),
            Granted(limited(100, granted=60), Grant(tokens=60)),
            id="twice what it needs",
        ),
        pytest.param(Ledger(), Request(), Granted(Ledger(), None), id="no limit, no grant"),
        pytest.param(
            Ledger(),
            Request(at_most=7),
            Granted(Ledger(tokens=Account(granted=7)), Grant(tokens=7)),
            id="no limit, the step's own cap",
        ),
        pytest.param(
            limited(0), Request(), Denied("workflow token budget exhausted (0 / 0 tokens)"), id="a limit of 0"
        ),
        pytest.param(
            limited(100, consumed=100),
            Request(),
            Denied("workflow token budget exhausted (100 / 100 tokens)"),
            id="exhausted",
        ),
        pytest.param(
            limited(100, consumed=30, granted=70),
            Request(),
            MustWait("steps in flight hold what is left of the budget (30 used and 70 held of 100 tokens)"),
            id="held by others",
        ),
        pytest.param(
            limited(100, consumed=80, granted=10),
            Request(at_least=21),
            Denied("workflow token budget cannot pay 21 tokens more (80 / 100 tokens used)"),
            id="more than the others can give back",
        ),
        pytest.param(
            Ledger(usd=Account(limit=2 * budget.NANO, consumed=2 * budget.NANO)),
            Request(),
            Denied("workflow dollar budget exhausted ($2.0000 / $2.0000)"),
            id="out of dollars",
        ),
    ],
)
def test_grant_decides(ledger: Ledger, request_: Request, decision: budget.Decision) -> None:
    """A grant is what is left, a fair share, a wait, or a denial."""
    assert budget.grant(ledger, request_) == decision


@pytest.mark.parametrize(
    ("ledger", "bundle", "decision"),
    [
        pytest.param(
            limited(1_000),
            budget.Bundle(fresh=6, sharing=15, first_tokens=192_000),
            Granted(limited(1_000, granted=400), Grant(tokens=400)),
            id="its share",
        ),
        pytest.param(
            limited(1_000_000),
            budget.Bundle(fresh=2, sharing=2, first_tokens=64_000),
            Granted(limited(1_000_000, granted=64_000), Grant(tokens=64_000)),
            id="at most what its steps would get alone",
        ),
        pytest.param(
            limited(1_000),
            budget.Bundle(fresh=1, sharing=10, first_tokens=32_000, resumed_tokens=300),
            Granted(limited(1_000, granted=400), Grant(tokens=400)),
            id="and what its suspended steps ask for",
        ),
        pytest.param(
            limited(1_000),
            budget.Bundle(fresh=0, sharing=9, first_tokens=0, resumed_tokens=3_000, at_least=900),
            Granted(limited(1_000, granted=1_000), Grant(tokens=1_000)),
            id="all that is left",
        ),
        pytest.param(
            Ledger(), budget.Bundle(fresh=9, sharing=9, first_tokens=9), Granted(Ledger(), None), id="no limit"
        ),
        pytest.param(
            limited(100, consumed=40, granted=60),
            budget.Bundle(fresh=9, sharing=9, first_tokens=9),
            MustWait("steps in flight hold what is left of the budget (40 used and 60 held of 100 tokens)"),
            id="held by others",
        ),
        pytest.param(
            limited(100, consumed=40),
            budget.Bundle(fresh=0, sharing=9, first_tokens=0, resumed_tokens=200, at_least=61),
            Denied("workflow token budget cannot pay 61 tokens more (40 / 100 tokens used)"),
            id="more than there is",
        ),
        pytest.param(
            limited(100, consumed=100),
            budget.Bundle(fresh=1, sharing=1, first_tokens=1),
            Denied("workflow token budget exhausted (100 / 100 tokens)"),
            id="exhausted",
        ),
        pytest.param(
            Ledger(usd=Account(limit=3 * budget.NANO)),
            budget.Bundle(fresh=2, sharing=4, first_tokens=64_000),
            Granted(Ledger(usd=Account(limit=3 * budget.NANO, granted=budget.NANO)), Grant(usd=1.0)),
            id="dollars",
        ),
    ],
)
def test_allot_decides(ledger: Ledger, bundle: budget.Bundle, decision: budget.Decision) -> None:
    """An allotment is a bundle's share, and what is left where that is less."""
    assert budget.allot(ledger, bundle) == decision


@pytest.mark.parametrize(
    ("held", "charged"),
    [
        (None, Usage()),
        (Grant(tokens=7, usd=0.5), Usage(total_tokens=7, cost_usd=0.5)),
        (Grant(usd=0.5), Usage(cost_usd=0.5)),
    ],
    ids=["no grant", "both", "dollars"],
)
def test_whole_grant_is_charged_where_nobody_knows(held: Grant | None, charged: Usage) -> None:
    """What a lost worker, or a lost child, spent is at most what it held."""
    assert budget.whole(held) == charged


@pytest.mark.parametrize(
    ("needs", "made_progress", "asked"),
    [
        (TokensNeeded(at_least_usd=0.2), True, Request(2, 0, None, HELD, NANO // 5)),
        (TokensNeeded(at_least_usd=0.2), False, Request(2, 0, None, HELD, NANO // 2 + 1)),
        (TokensNeeded(at_least_usd=0.7), False, Request(2, 0, None, HELD, 7 * NANO // 10)),
        (TokensNeeded(at_least=20), True, Request(2, 20, None, HELD, 0)),
        (TokensNeeded(at_least=20), False, Request(2, 101, None, HELD, 0)),
    ],
    ids=["dollars", "dollars, and nothing was spent", "many dollars", "tokens", "tokens, and nothing was spent"],
)
def test_request_more_asks_for_what_is_short(needs: TokensNeeded, made_progress: bool, asked: Request) -> None:
    """A step that is short of dollars asks for no more tokens: it would wait for them in vain."""
    assert (
        budget.request_more(needs=needs, held=HELD, spent=Usage(), made_progress=made_progress, cap=None, sharing=2)
        == asked
    )


def test_grant_denied_for_dollars_says_so() -> None:
    """Where both are limited, the reason names the one that is short."""
    ledger = Ledger(tokens=Account(limit=1_000), usd=Account(limit=NANO, consumed=NANO // 2))
    assert budget.grant(ledger, Request(at_least_usd=NANO)) == Denied(
        "workflow dollar budget cannot pay for the next model call ($0.5000 used)"
    )


def test_settle_charges_an_overrun_in_full() -> None:
    """An agent that spends more than its grant without asking is charged all of it."""
    ledger = limited(100, granted=10)
    assert budget.settle(ledger, Grant(tokens=10), Usage(total_tokens=150)) == limited(100, consumed=150)


def test_settle_after_a_limit_was_set_returns_nothing_it_never_held() -> None:
    """A step that began without a limit holds nothing of the limit that came later."""
    ledger = limited(100, granted=40)
    assert budget.settle(ledger, None, Usage(total_tokens=5)) == limited(100, consumed=5, granted=40)


@pytest.mark.parametrize(
    ("change", "limits"),
    [
        pytest.param({"limit_tokens": 7}, (7, 3.0), id="absent stays"),
        pytest.param({"limit_tokens": None}, (None, 3.0), id="null lifts"),
        pytest.param({"limit_usd": 0}, (5, 0.0), id="zero is a limit"),
        pytest.param({}, (5, 3.0), id="nothing named"),
    ],
)
def test_change_touches_only_what_is_named(
    change: dict[str, int | None], limits: tuple[int | None, float | None]
) -> None:
    """An absent limit stays as it is, null takes it away."""
    ledger = budget.opened(RunOptions(budget_tokens=5, budget_usd=3))
    snapshot = budget.snapshot(budget.change(ledger, BudgetChange.model_validate(change)))
    assert (snapshot.limit_tokens, snapshot.limit_usd) == limits


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9))))
def test_record_counts_an_id_once(reports: list[tuple[str, int]]) -> None:
    """However often a report is sent, its id counts once, with its first figures."""
    ledger = Ledger()
    first: dict[str, int] = {}
    for name, tokens in reports:
        first.setdefault(name, tokens)
        ledger = budget.record(ledger, UsageReport(id=name, input_tokens=tokens))
    assert ledger.tokens.consumed == sum(first.values())


def test_record_keeps_dollars_exact() -> None:
    """A million small prices add up without drift."""
    ledger = Ledger()
    for number in range(1_000):
        ledger = budget.record(ledger, UsageReport(id=str(number), input_tokens=1, cost_usd=0.0000015))
    assert budget.snapshot(ledger).consumed_usd == 0.0015


def test_passed_soft_limit_tells_once() -> None:
    """The soft limit is passed by the settlement that crosses it, not by those after it."""
    steps = [limited(100, consumed=consumed) for consumed in (0, 79, 80, 95)]
    passed = [budget.passed_soft_limit(before, after) for before, after in pairwise(steps)]
    assert passed == [[], ["workflow_tokens"], []]


def test_recent_ids_travel() -> None:
    """Across continue-as-new the latest ids are kept, so that a report sent twice around it counts once."""
    ledger = Ledger(recorded=dict.fromkeys(str(number) for number in range(budget.RECENT_IDS + 1)))
    kept = budget.as_carried(ledger).recorded
    assert (len(kept), "0" in kept, str(budget.RECENT_IDS) in kept) == (budget.RECENT_IDS, False, True)
