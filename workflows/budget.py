"""What a run may still spend.

Law: consumed + granted never passes the limit, whatever order grants, settlements and raises arrive in. (A limit that
is lowered below what is already consumed and granted takes nothing back: work in flight keeps its grant, and nothing
new is granted. An agent that spends more than its grant without asking is charged in full.)
Pure: a replay calls this again, so no clock and no randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from hashlib import sha256
from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from workflows.steps import Grant, RunOptions, TokensNeeded, Usage
from workflows.wire import Stored

NANO = 1_000_000_000
# Dollars are kept as whole nanodollars: sums of floats drift, and a call to a small model costs millionths.

FIRST_GRANT_TOKENS = 32_000
FIRST_GRANT_USD = NANO // 2
# What a step gets before it has shown what it needs: a short agent loop of a few model calls. More would let the
# first steps of a wide fan-out hold the whole budget; less would make every step ask twice.

SOFT_LIMIT_PERCENT = 80
# Where people are told, while there is still something left to decide.

NOTHING = Usage()

RECENT_IDS = 2_000
# How many ids of `record_usage` travel across continue-as-new.
DIGEST_LENGTH = 16
# 64 bits of each id: two thousand of them take 48 KB of the 64 KB that a run may carry.

Resource = Literal["workflow_tokens", "workflow_usd"]


class BudgetSnapshot(Stored):
    """Answer of the `budget` query. Every field is always written; null is "no limit"."""

    consumed_tokens: int
    limit_tokens: int | None
    granted_tokens: int
    """Set aside for steps in flight."""
    remaining_tokens: int | None
    """Neither consumed nor granted."""
    consumed_usd: float
    limit_usd: float | None


class BudgetChange(Stored):
    """Payload of the `set_budget` signal: an absent limit stays as it is, null takes it away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit_tokens: NonNegativeInt | None = None
    limit_usd: NonNegativeFloat | None = None


class UsageReport(Stored):
    """Payload of the `record_usage` signal: what was spent outside the run's own steps. An `id` counts once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=200)
    input_tokens: NonNegativeInt = 0
    output_tokens: NonNegativeInt = 0
    cost_usd: NonNegativeFloat | None = None

    @property
    def usage(self) -> Usage:
        """The report as usage."""
        return Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens, cost_usd=self.cost_usd)


@dataclass(frozen=True, slots=True)
class Account:
    """One resource: what was spent of it, what is set aside, and how much there may be (None: no limit)."""

    limit: int | None = None
    consumed: int = 0
    granted: int = 0

    @property
    def remaining(self) -> int | None:
        """What can still be granted."""
        return None if self.limit is None else max(0, self.limit - self.consumed - self.granted)

    @property
    def is_exhausted(self) -> bool:
        """Whether the limit is reached; a limit of 0 is reached from the start."""
        return self.limit is not None and self.consumed >= self.limit

    @property
    def percent(self) -> int:
        """Consumed share of the limit, rounded down; 0 without a limit."""
        if self.limit is None:
            return 0
        return 100 if self.limit == 0 else self.consumed * 100 // self.limit


@dataclass(frozen=True, slots=True)
class Ledger:
    """The budget of a run: tokens, dollars, and the reports already counted."""

    tokens: Account = Account()
    usd: Account = Account()
    recorded: Mapping[str, None] = field(default_factory=dict)
    """Digests of the ids of `record_usage`, in order of arrival."""

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more may be started."""
        return self.tokens.is_exhausted or self.usd.is_exhausted


@dataclass(frozen=True, slots=True)
class Request:
    """A step that asks for tokens."""

    sharing: int = 1
    """Steps waiting or running, this one included."""
    at_least: int = 0
    """Tokens without which it cannot go on."""
    at_most: int | None = None
    """What its own `max_tokens` leaves."""
    previous: Grant | None = None
    """What it had before it was suspended; it gets at least twice as much, if there is as much."""
    at_least_usd: int = 0
    """Nanodollars without which it cannot go on."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Steps that another run carries together, and that ask for an allotment: what that run may spend on them."""

    fresh: int
    """How many of them have not begun."""
    sharing: int
    """Steps waiting or running, those of the bundle included."""
    first_tokens: int
    """What the fresh ones would get at first, each for itself."""
    resumed_tokens: int = 0
    """What the suspended ones ask for together."""
    resumed_usd: int = 0
    """In nanodollars, as are all dollars here."""
    at_least: int = 0
    """Tokens without which not even the most modest of them can go on."""
    at_least_usd: int = 0

    @property
    def first_usd(self) -> int:
        """What the fresh ones would get at first of the dollars."""
        return self.fresh * FIRST_GRANT_USD


@dataclass(frozen=True, slots=True)
class Granted:
    """The step may run; its grant is None where nothing is limited."""

    ledger: Ledger
    grant: Grant | None


@dataclass(frozen=True, slots=True)
class MustWait:
    """Steps in flight hold what is left; ask again when one of them settles."""

    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The budget cannot pay for this step, however the steps in flight end."""

    reason: str


class NothingToGain(Exception):
    """More tokens would not help the step; the text is the reason."""


class Shortfall(Enum):
    """Why a resource cannot be granted."""

    FOR_NOW = auto()
    FOR_GOOD = auto()


Decision = Granted | MustWait | Denied


def opened(options: RunOptions) -> Ledger:
    """The ledger of a run that starts."""
    return Ledger(tokens=Account(limit=options.budget_tokens), usd=Account(limit=nano(options.budget_usd)))


def grant(ledger: Ledger, request: Request) -> Decision:
    """Set tokens and dollars aside for a step; grant what is left if that is less, deny when nothing is."""
    if ledger.tokens.limit is None and ledger.usd.limit is None and request.at_most is None:
        return Granted(ledger, None)  # most runs, and every one of their steps
    if ledger.is_exhausted:
        return Denied(exhausted_reason(ledger))
    previous = request.previous or Grant()
    tokens = _amount(
        ledger.tokens, request.sharing, FIRST_GRANT_TOKENS, request.at_least, request.at_most, previous.tokens
    )
    usd = _amount(ledger.usd, request.sharing, FIRST_GRANT_USD, request.at_least_usd, None, nano(previous.usd))
    return _decided(ledger, tokens, usd, request.at_least)


def _decided(ledger: Ledger, tokens: int | Shortfall | None, usd: int | Shortfall | None, at_least: int) -> Decision:
    if isinstance(tokens, Shortfall) or isinstance(usd, Shortfall):
        if Shortfall.FOR_GOOD in (tokens, usd):
            return Denied(shortage_reason(ledger, at_least, is_of_dollars=tokens is not Shortfall.FOR_GOOD))
        return MustWait(waiting_reason(ledger))
    held = replace(ledger, tokens=_hold(ledger.tokens, tokens), usd=_hold(ledger.usd, usd))
    if tokens is None and usd is None:
        return Granted(held, None)
    return Granted(held, Grant(tokens=tokens, usd=None if usd is None else usd / NANO))


def allot(ledger: Ledger, bundle: Bundle) -> Decision:
    """Set tokens and dollars aside for a bundle: its share of what is left, and what its suspended steps ask for.

    The steps then share the allotment as they would have shared the budget. What they do not use comes back.
    """
    if ledger.tokens.limit is None and ledger.usd.limit is None:
        return Granted(ledger, None)
    if ledger.is_exhausted:
        return Denied(exhausted_reason(ledger))
    tokens = _allotted(ledger.tokens, bundle, bundle.first_tokens, bundle.resumed_tokens, bundle.at_least)
    usd = _allotted(ledger.usd, bundle, bundle.first_usd, bundle.resumed_usd, bundle.at_least_usd)
    return _decided(ledger, tokens, usd, bundle.at_least)


def _allotted(account: Account, bundle: Bundle, first: int, resumed: int, at_least: int) -> int | Shortfall | None:
    if account.remaining is None:
        return None
    share = account.remaining * bundle.fresh // max(1, bundle.fresh, bundle.sharing)
    return _at_hand(account, min(share, first) + resumed, at_least)


def _amount(
    account: Account, sharing: int, first: int, at_least: int, at_most: int | None, previous: int | None
) -> int | Shortfall | None:
    """How much of one resource a step gets: None is "no limit"."""
    if account.remaining is None:
        return at_most
    wanted = account.remaining // max(1, sharing) if previous is None else 2 * max(previous, at_least)
    if previous is None:
        wanted = min(wanted, first) if at_most is None else at_most
    elif at_most is not None:
        wanted = min(wanted, at_most)
    return _at_hand(account, wanted, at_least)


def _at_hand(account: Account, wanted: int, at_least: int) -> int | Shortfall:
    """What is wanted of a limited resource, as far as it is there."""
    least, remaining = max(1, at_least), account.remaining or 0
    amount = min(max(least, wanted), remaining)
    if amount >= least:
        return amount
    # Too little now. What is granted to others may come back; whether that would be enough decides.
    can_come_back = account.granted > 0 and remaining + account.granted >= least
    return Shortfall.FOR_NOW if can_come_back else Shortfall.FOR_GOOD


def _hold(account: Account, amount: int | None) -> Account:
    # Held also where nothing is limited, for a limit may be set before the step settles.
    return account if amount is None else replace(account, granted=account.granted + amount)


def request_more(
    *, needs: TokensNeeded, held: Grant | None, spent: Usage, made_progress: bool, cap: int | None, sharing: int
) -> Request:
    """What a suspended step asks for. Raises `NothingToGain` where more could not help it.

    A step that spent nothing must get more than it had, or it would go round for ever with the same grant.
    """
    if held is None or (held.tokens is None and held.usd is None):
        raise NothingToGain("it was suspended for tokens, and nothing limits the tokens it may spend")
    at_least, at_least_usd = needs.at_least, nano(needs.at_least_usd) or 0
    if not made_progress and at_least_usd and held.usd is not None:
        at_least_usd = max(at_least_usd, (nano(held.usd) or 0) + 1)
    elif not made_progress:
        at_least = at_least if held.tokens is None else max(at_least, held.tokens + 1)
        at_least_usd = 0 if held.usd is None or held.tokens is not None else (nano(held.usd) or 0) + 1
    if cap is not None and spent.total_tokens + max(1, at_least) > cap:
        raise NothingToGain(f"step token limit reached ({spent.total_tokens} / {cap} tokens)")
    at_most = None if cap is None else cap - spent.total_tokens
    return Request(sharing, at_least, at_most, held, at_least_usd)


def request_again(*, spent: Usage, cap: int | None, sharing: int) -> Request:
    """What a step asks for that has the answers it waited for. Raises `NothingToGain` where its cap is used up."""
    if cap is not None and spent.total_tokens >= cap:
        raise NothingToGain(f"step token limit reached ({spent.total_tokens} / {cap} tokens)")
    return Request(sharing, at_most=None if cap is None else cap - spent.total_tokens)


def decide(ledger: Ledger, request: Request | Bundle) -> Decision:
    """What a step, or a bundle of steps, is given."""
    return allot(ledger, request) if isinstance(request, Bundle) else grant(ledger, request)


def whole(held: Grant | None) -> Usage:
    """What is charged where nobody can tell how much of a grant was spent: all of it."""
    return Usage(total_tokens=held.tokens or 0, cost_usd=held.usd) if held else Usage()


def settle(ledger: Ledger, held: Grant | None, spent: Usage) -> Ledger:
    """Charge what a step spent since its grant, and take back what it did not use."""
    if held is None and not spent.total_tokens and not spent.cost_usd:
        return ledger
    return replace(
        ledger,
        tokens=_settled(ledger.tokens, held.tokens if held else None, spent.total_tokens),
        usd=_settled(ledger.usd, nano(held.usd) if held else None, nano(spent.cost_usd) or 0),
    )


def _settled(account: Account, held: int | None, spent: int) -> Account:
    return replace(account, consumed=account.consumed + spent, granted=account.granted - (held or 0))


def change(ledger: Ledger, wanted: BudgetChange) -> Ledger:
    """Raise, lower or lift the limits that are named."""
    named = wanted.model_fields_set
    tokens = replace(ledger.tokens, limit=wanted.limit_tokens) if "limit_tokens" in named else ledger.tokens
    usd = replace(ledger.usd, limit=nano(wanted.limit_usd)) if "limit_usd" in named else ledger.usd
    return replace(ledger, tokens=tokens, usd=usd)


def record(ledger: Ledger, report: UsageReport) -> Ledger:
    """Charge usage reported from outside; a report whose id was seen before changes nothing."""
    digest = sha256(report.id.encode()).hexdigest()[:DIGEST_LENGTH]
    if digest in ledger.recorded:
        return ledger
    charged = settle(ledger, None, report.usage)
    return replace(charged, recorded={**ledger.recorded, digest: None})


def snapshot(ledger: Ledger) -> BudgetSnapshot:
    """The budget as people and programs read it."""
    return BudgetSnapshot(
        consumed_tokens=ledger.tokens.consumed,
        limit_tokens=ledger.tokens.limit,
        granted_tokens=ledger.tokens.granted,
        remaining_tokens=ledger.tokens.remaining,
        consumed_usd=ledger.usd.consumed / NANO,
        limit_usd=None if ledger.usd.limit is None else ledger.usd.limit / NANO,
    )


def exhausted_resource(ledger: Ledger) -> Resource:
    """Which limit holds the run back."""
    if ledger.tokens.is_exhausted or not ledger.usd.is_exhausted:
        return "workflow_tokens"
    return "workflow_usd"


def exhausted_reason(ledger: Ledger) -> str:
    """Why a step was denied, as a3s words it."""
    if exhausted_resource(ledger) == "workflow_tokens":
        return f"workflow token budget exhausted ({ledger.tokens.consumed} / {ledger.tokens.limit} tokens)"
    limit = (ledger.usd.limit or 0) / NANO
    return f"workflow dollar budget exhausted (${ledger.usd.consumed / NANO:.4f} / ${limit:.4f})"


def shortage_reason(ledger: Ledger, at_least: int, *, is_of_dollars: bool) -> str:
    """Why a step was denied although the limit is not reached: what is left is too little to go on with."""
    if is_of_dollars:
        return f"workflow dollar budget cannot pay for the next model call (${ledger.usd.consumed / NANO:.4f} used)"
    left = f"{ledger.tokens.consumed} / {ledger.tokens.limit} tokens used"
    return f"workflow token budget cannot pay {max(1, at_least)} tokens more ({left})"


def waiting_reason(ledger: Ledger) -> str:
    """Why a step waits although the limit is not reached."""
    tokens = ledger.tokens
    held = f"{tokens.consumed} used and {tokens.granted} held of {tokens.limit} tokens"
    return f"steps in flight hold what is left of the budget ({held})"


def passed_soft_limit(before: Ledger, after: Ledger) -> list[Resource]:
    """Which resources have just passed the soft limit."""
    passed: list[Resource] = []
    if before.tokens.percent < SOFT_LIMIT_PERCENT <= after.tokens.percent:
        passed.append("workflow_tokens")
    if before.usd.percent < SOFT_LIMIT_PERCENT <= after.usd.percent:
        passed.append("workflow_usd")
    return passed


def nano(dollars: float | None) -> int | None:
    """Dollars as whole nanodollars."""
    return None if dollars is None else round(dollars * NANO)


def as_carried(ledger: Ledger) -> Ledger:
    """The ledger as it travels across continue-as-new: nothing in flight, and the latest ids of `record_usage` only."""
    return Ledger(
        tokens=replace(ledger.tokens, granted=0),
        usd=replace(ledger.usd, granted=0),
        recorded=dict.fromkeys(list(ledger.recorded)[-RECENT_IDS:]),
    )
