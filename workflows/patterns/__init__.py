"""The patterns: multi-agent algorithms over the verbs, for stage graphs and for Python alike."""

from workflows.errors import PatternFailed
from workflows.patterns.adversarial_review import adversarial_review
from workflows.patterns.delegator import delegator
from workflows.patterns.dispatch import run_pattern
from workflows.patterns.fleet import fleet
from workflows.patterns.map_reduce import map_reduce
from workflows.patterns.pipeline import pipeline
from workflows.patterns.supervisor import supervisor
from workflows.patterns.swarm_debate import swarm_debate
from workflows.patterns.swarm_parallel import swarm_parallel
from workflows.patterns.swarm_sequential import swarm_sequential
from workflows.patterns.tournament import tournament
from workflows.patterns.vote import vote

__all__ = [
    "PatternFailed",
    "adversarial_review",
    "delegator",
    "fleet",
    "map_reduce",
    "pipeline",
    "run_pattern",
    "supervisor",
    "swarm_debate",
    "swarm_parallel",
    "swarm_sequential",
    "tournament",
    "vote",
]
