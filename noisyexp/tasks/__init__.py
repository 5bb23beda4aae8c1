"""One folder an experiment."""

from noisyexp.records.metric import Metric
from noisyexp.tasks.base import (
    Curriculum,
    Decision,
    FixedShapeTask,
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
    "FixedShapeTask",
    "Look",
    "Metric",
    "Panel",
    "StepOutput",
    "Task",
    "find_task",
    "task_names",
]
