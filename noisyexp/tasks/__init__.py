"""One folder an experiment."""

from noisyexp.tasks.base import Metric, StepOutput, Task, find_task, task_names

__all__ = ["Metric", "StepOutput", "Task", "find_task", "task_names"]
