"""What a call has to do, taken slice by slice."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows import supply
from workflows.errors import DuplicateTaskIds
from workflows.handover import Begun, StepItem, restored, shortened
from workflows.steps import AgentStepSpec, Resume, StepOutcome, Usage
from workflows.supply import INLINE_STEPS, LEAST_SLICE, SLICE_BYTES, SLICE_STEPS, StepSupply


def spec(name: object, prompt: str = "") -> AgentStepSpec:
    return AgentStepSpec(task_id=str(name), agent="a", prompt=prompt)


def many(count: int, prompt: str = "") -> Iterator[AgentStepSpec]:
    return (spec(number, prompt) for number in range(count))


SPECS = list(many(INLINE_STEPS + 1))


def drained(supply: StepSupply, lanes: int = 4) -> list[list[int]]:
    slices = []
    while pieces := supply.take(lanes):
        slices.append([piece.at for piece in pieces])
    return slices


@pytest.mark.parametrize("counted", [True, False], ids=["list", "generator"])
def test_supply_up_to_the_bound_is_inline(counted: bool) -> None:
    """What a run carries itself is a list, whatever it came from."""
    specs = many(INLINE_STEPS)
    whole = StepSupply("parallel", list(specs) if counted else specs)
    assert whole.inline is not None
    assert (len(whole.inline), whole.known, whole.has_more) == (INLINE_STEPS, INLINE_STEPS, False)


@pytest.mark.parametrize(
    ("counted", "known", "lengths"),
    [
        (True, 1_400, [175, 154, 134, 118, 103, *[LEAST_SLICE] * 7, 16]),
        (False, INLINE_STEPS + 1, [251] * 5 + [145]),
    ],
    ids=["list", "generator"],
)
def test_supply_beyond_the_bound_is_taken_in_slices(counted: bool, known: int, lengths: list[int]) -> None:
    """Each step comes once, in order; a generator is asked only for what is needed, and slices end together."""
    specs = many(1_400)
    sliced = StepSupply("parallel", list(specs) if counted else specs)
    assert (sliced.inline, sliced.known, sliced.has_more) == (None, known, not counted)
    slices = drained(sliced)
    assert [at for each in slices for at in each] == list(range(1_400))
    assert [len(each) for each in slices] == lengths
    assert (sliced.known, sliced.has_more) == (1_400, False)


def test_generator_is_not_asked_ahead() -> None:
    """After the first look only as many specs exist as were taken."""
    asked = 0

    def counting() -> Iterator[AgentStepSpec]:
        nonlocal asked
        for each in many(100_000):
            asked += 1
            yield each

    sliced = StepSupply("parallel", counting())
    assert asked == INLINE_STEPS + 1
    taken = [len(sliced.take(4)) for _ in range(8)]
    assert taken == [251, 251, 251, 251, 251, 314, 393, SLICE_STEPS]
    assert asked == sum(taken)


def test_last_slices_of_a_list_are_smaller() -> None:
    """So that no lane works long after the others."""
    lengths = [len(each) for each in drained(StepSupply("parallel", list(many(4_000))))]
    assert lengths[0] == SLICE_STEPS
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-2] == LEAST_SLICE


@pytest.mark.parametrize("size", [30_000, 300_000])
def test_slice_is_cut_by_bytes(size: int) -> None:
    """No slice holds more than one argument may take."""
    slices = drained(StepSupply("parallel", list(many(1_001, "x" * size))))
    assert {len(each) for each in slices[:-1]} == {min(SLICE_STEPS, SLICE_BYTES // (size + 60))}


@pytest.mark.parametrize("prompt", ["x" * (SLICE_BYTES + 1), "\ud800" * 5_000], ids=["large", "unstorable"])
def test_piece_that_fits_into_no_slice_comes_alone(prompt: str) -> None:
    """It is for the run itself."""
    sliced = StepSupply("parallel", [spec("first"), spec("huge", prompt), *many(1_000)])
    taken = [sliced.take(4)[:2] for _ in range(3)]
    assert [[sliced.is_too_large(piece) for piece in pieces] for pieces in taken] == [[False], [True], [False, False]]


@settings(max_examples=20, deadline=None)  # each example takes a thousand steps apart
@given(st.sets(st.integers(0, INLINE_STEPS), max_size=300))
def test_what_came_back_is_taken_again_first(returned: set[int]) -> None:
    """Whatever comes back is in the next slice, and every piece ends once."""
    sliced = StepSupply("parallel", SPECS)
    ended: list[int] = []
    awaited: list[int] = []
    while pieces := sliced.take(4):
        assert [piece.at for piece in pieces][: len(awaited)] == awaited[: len(pieces)]
        back = [piece for piece in pieces if piece.at in returned]
        returned = returned - {piece.at for piece in back}
        ended += [piece.at for piece in pieces if piece not in back]
        sliced.put_back(back)
        awaited = [piece.at for piece in back]
    assert sorted(ended) == list(range(INLINE_STEPS + 1))


def test_generator_that_repeats_an_id_is_refused_as_it_goes() -> None:
    """A list is refused at once, a generator when the id comes again."""
    repeated = [*many(1_200), spec(3)]
    with pytest.raises(DuplicateTaskIds, match="task_id '3' is used by more than one step"):
        StepSupply("parallel", repeated)
    sliced = StepSupply("parallel", iter(repeated))
    for _ in range(4):
        sliced.take(4)
    with pytest.raises(DuplicateTaskIds, match="task_id '3' is used by more than one step"):
        sliced.take(4)


def test_outcome_travels_without_what_both_sides_know() -> None:
    """The names of its step are put back from the spec."""
    outcome = StepOutcome(task_id="a", agent="b", output="c", success=True, usage=Usage(input_tokens=3), duration_ms=4)
    told = shortened(outcome)
    assert told == {"output": "c", "success": True, "usage": {"input_tokens": 3, "total_tokens": 3}, "duration_ms": 4}
    assert restored(AgentStepSpec(task_id="a", agent="b", prompt=""), told) == outcome


def test_stopped_step_keeps_what_it_has_spent() -> None:
    """A suspended step that goes no further has its usage and its attempts."""
    begun = Begun(key="k", resume=Resume(usage=Usage(input_tokens=5)), attempts=2)
    outcome = supply.unfinished(StepItem(spec=spec("a"), begun=begun), "budget_exceeded", "Task failed: no tokens")
    assert (outcome.status, outcome.error, outcome.usage, outcome.attempts) == (
        "budget_exceeded",
        "no tokens",
        Usage(input_tokens=5),
        2,
    )
