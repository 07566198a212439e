"""Which failed workflow tasks say that a run cannot go on."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from runtime.stuck import TEMPORALS_OWN


@pytest.mark.parametrize(
    ("cause", "is_temporals_own"),
    [
        ("FORCE_CLOSE_COMMAND", True),
        ("UNHANDLED_COMMAND", True),
        ("RESET_STICKY_TASK_QUEUE", True),
        ("WORKFLOW_WORKER_UNHANDLED_FAILURE", False),
        ("NON_DETERMINISTIC_ERROR", False),
        ("BAD_SCHEDULE_ACTIVITY_ATTRIBUTES", False),
    ],
)
def test_stuck_counts_failures_of_the_code_alone(cause: str, is_temporals_own: bool) -> None:
    """Temporal fails workflow tasks by itself too, and then goes on at once."""
    assert (WorkflowTaskFailedCause.Value(f"WORKFLOW_TASK_FAILED_CAUSE_{cause}") in TEMPORALS_OWN) is is_temporals_own
