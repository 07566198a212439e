"""Every name that a history stores, the base of the models in it, and the guard on what leaves.

Law: a name here is in recorded histories, so changing it is a migration with a history to prove it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import to_json

from workflows.errors import PayloadTooLarge

TASK_QUEUE = "perdure"

STEPS_WORKFLOW = "Steps"
STAGE_GRAPH_WORKFLOW = "StageGraph"
CHAIN_WORKFLOW = "Chain"
SLICE_WORKFLOW = "Slice"
SEEN_STORE_WORKFLOW = "SeenStore"
SEEN_STORE_ID = "perdure-seen-"

RUN_AGENT_STEP = "run_agent_step"
RUN_ACTION = "run_action"
CLAIM_UNSEEN = "claim_unseen"
VERIFY_GRAPH = "verify_graph"
GIVE_WAY = "give_way"

BUDGET_QUERY = "budget"
EVENTS_QUERY = "events"
PROGRESS_QUERY = "progress"
APPROVALS_QUERY = "approvals"
SEEN_QUERY = "count"
CLAIM_UPDATE = "claim"
RESOLVE_APPROVAL_UPDATE = "resolve_approval"
SET_BUDGET_SIGNAL = "set_budget"
RECORD_USAGE_SIGNAL = "record_usage"
SLICE_OUTCOMES_SIGNAL = "slice_outcomes"
SLICE_SHORT_SIGNAL = "slice_short"
SLICE_ALLOTTED_SIGNAL = "slice_allotted"

OPTIONS_MEMO = "perdure_options"
CARRIED_MEMO = "perdure_carried"

PAYLOAD_DRIVER = "perdure"
"""What a reference to a payload in the blob store calls the driver that fetches it."""
PAYLOAD_KEY = "key"
"""The field of such a reference that holds the key."""

CANCELLED = "cancelled"
"""Failure type of a run that was cancelled and reports its result in the failure's details."""

MAX_PAYLOAD_BYTES = 1_900_000
# The server refuses 2 MiB. Measured: above that a run retries its workflow task for ever, and 1.9 MB passes as
# argument, result, failure details and memo alike. What is left is room for a codec's frame.

MAX_STORED_BYTES = 20_000_000
# With a blob store. What a workflow schedules is measured and encoded by its own thread, which may not take 2 s: 20 MB
# take about a tenth of that. And a step's outcome must reach the store within its heartbeat timeout of 6 s: 20 MB do at
# 4 MB/s.

LARGE_PAYLOADS_PATCH = "perdure-large-payloads"
"""Marks a history whose run takes what only a blob store holds: every replay decides as the first worker did."""
LARGE_PAYLOADS_EXTERN = "perdure_large_payloads"
"""What a worker lends its workflows if it has a blob store: its name among their extern functions."""

FOR_EACH_SLICES_PATCH = "perdure-for-each-slices"
"""Marks a history in which children carry the items of a large `for_each`; in one that is older the run itself does."""

LARGER_SLICES_PATCH = "perdure-larger-slices"
"""Marks a history whose children carry 400 steps each; in one that is older they carry 250."""

SMALLER_TASKS_PATCH = "perdure-smaller-tasks"
"""Marks a history in which one workflow task would have scheduled more than 2 MB, or large actions at once; in one that
is older agent steps were held to 3 MB, and actions to nothing."""

FULL_HISTORIES_PATCH = "perdure-full-histories"
"""Marks a history that was nearly full: its bytes keep further stages from beginning too, and never what undoes."""

MANY_OUTPUTS_PATCH = "perdure-many-outputs"
"""Marks a history in which a `map_reduce` of more than 10,000 items pauses while it reads their outcomes."""

WRITTEN_IN_PARTS_PATCH = "perdure-written-in-parts"
"""Marks a history in which a pattern of more than 10,000 outputs has them written into the result in parts."""

FINITE_ITEMS_PATCH = "perdure-finite-items"
"""Marks a history in which a pipeline met a number that is none, or infinite: the run carries that itself, for JSON has
neither. In one that is older a child was given null in its place."""

takes_large_payloads: ContextVar[bool] = ContextVar("takes_large_payloads", default=False)
"""Whether what an activity returns may be as large as a blob store takes."""

SMALL_BYTES = 64_000
# Up to here it does not matter how many bytes a value takes.

UNION_TAG = "type"
"""The field that tells the members of a union apart; always written."""

LONGEST_NUMBER = 32
# A float takes at most 25 characters, null takes four.
WORST_ESCAPE = 6
# JSON writes one character in at most six bytes (\u001f), so `len * 6` bounds a string without encoding it.


_stored_kinds: set[type] = set()
# Every class of these models: whether a value is of one is told without `isinstance`, which is slow in the sandbox.


class Stored(BaseModel):
    """A model that a history keeps: frozen, fields at their default left out, union tags always written.

    Unknown fields are ignored on reading: a worker that is rolled back must still read what a newer one wrote.
    A new field arrives with a default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)

    _omittable: ClassVar[dict[str, Any]] = {}
    """Default by field. One that depends on other fields is always written. Defaults are immutable or only compared, so
    one instance serves all."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _stored_kinds.add(cls)
        cls._omittable = {
            name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
            if name != UNION_TAG and not field.is_required() and not field.default_factory_takes_validated_data
        }

    def _held(self) -> dict[str, Any]:
        """Its fields, as they are written."""
        return self.__dict__

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        held = self.__dict__
        for name, default in self._omittable.items():
            if (value := held[name]) is default or value == default:
                written.pop(name, None)  # absent already where the caller excluded it
        return written


def plain(value: Any) -> Any:
    """A stored value as its serializer writes it, holding the same JSON values instead of copies of them.

    For models whose fields are models, tuples of models and JSON, without aliases. The serializer builds what is inside
    a model anew for every model around it, which takes seconds for a large result of a graph.
    """
    kind = type(value)
    if kind in _stored_kinds:
        held, defaults = value._held(), value._omittable
        return {name: plain(item) for name, item in held.items() if name not in defaults or item != defaults[name]}
    return [plain(item) for item in value] if kind is tuple else value


def encode(value: Any) -> bytes:
    """A value as the JSON that a history holds."""
    return to_json(value)


def size(value: Any) -> int:
    """Bytes that a value takes as JSON."""
    return len(encode(value))


def measure(value: Any, small: int = SMALL_BYTES) -> int:
    """Bytes that a value takes as JSON, or, where it is small, a bound that costs nothing to find."""
    bound = _bound(value)
    return bound if bound <= small else size(value)


def fits(value: Any) -> bool:
    """Whether a value may leave as one payload. Cheap for small values: they are bounded without being encoded."""
    if _bound(value) <= MAX_PAYLOAD_BYTES:
        return True
    taken = size(value)
    return taken <= MAX_PAYLOAD_BYTES or taken <= largest_payload()


def fit(value: Any, *, owner: str, field: str) -> None:
    """Refuse a value that is too large for one payload.

    Raises `PayloadTooLarge`, naming the owner (a step, a run), the field and the size.
    """
    if not fits(value):
        raise PayloadTooLarge(owner=owner, field=field, size=size(value), limit=largest_payload())


def largest_payload() -> int:
    """Bytes that one payload may take here: what a history takes, or, with a blob store, what that takes.

    A run decides it once, at its first value that no history takes, and goes on with that to its end: a worker with
    another store must replay it as it was. Ask only where a value is larger than `MAX_PAYLOAD_BYTES`: the answer may
    leave a marker in the history.
    """
    from temporalio import workflow  # the pure modules that measure sizes do without it until here

    if not workflow.in_workflow():
        is_stored = takes_large_payloads.get()
    else:
        served = workflow.instance()
        decided: bool | None = getattr(served, LARGE_PAYLOADS_EXTERN, None)
        if decided is None:
            may = workflow.unsafe.is_replaying() or LARGE_PAYLOADS_EXTERN in workflow.extern_functions()
            decided = may and workflow.patched(LARGE_PAYLOADS_PATCH)
            setattr(served, LARGE_PAYLOADS_EXTERN, decided)
        is_stored = decided
    return MAX_STORED_BYTES if is_stored else MAX_PAYLOAD_BYTES


def _bound(value: Any) -> int:
    """An upper bound of the JSON size, from string lengths alone.

    Compares types exactly: a step is measured for each of its schedulings, and in the sandbox `isinstance` and
    `issubclass` are slow.
    """
    kind = type(value)
    if kind is str:
        return len(value) * WORST_ESCAPE + 2
    if value is None or kind is float or kind is bool:
        return LONGEST_NUMBER
    if kind is int:  # Python's integers have no largest one
        return 6 + int(value).bit_length() // 3
    if kind is dict:
        return sum(_bound(key) + 2 + _bound(item) for key, item in value.items()) + 2
    if kind is list or kind is tuple:
        return sum([_bound(item) + 1 for item in value]) + 2
    if kind in _stored_kinds:
        # Fields at their default are left out, and most are.
        held: dict[str, Any] = value._held()
        return sum([len(name) + 4 + _bound(item) for name, item in held.items() if item is not None]) + 2
    return size(value)  # whatever else there is, it is encoded to know
