"""One folder an experiment."""

from noisyexp.records.metric import Metric
from noisyexp.tasks.base import (
    Curriculum,
    Decision,
    Look,
    Panel,
    StepOutput,
    Task,
    find_task,
    task_names,
)

__all__ = [
    "Curriculum",
    "Decision",
    "Look",
    "Metric",
    "Panel",
    "StepOutput",
    "Task",
    "find_task",
    "task_names",
]
