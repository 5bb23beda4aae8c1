"""One folder an experiment."""

from noisyexp.records.metric import Metric
from noisyexp.tasks.base import (
    Curriculum,
    Decision,
    FixedShapeTask,
    Panel,
    Sample,
    StepOutput,
    Task,
    find_task,
    task_names,
)

__all__ = [
    "Curriculum",
    "Decision",
    "FixedShapeTask",
    "Metric",
    "Panel",
    "Sample",
    "StepOutput",
    "Task",
    "find_task",
    "task_names",
]
