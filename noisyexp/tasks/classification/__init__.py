"""Shared by the tasks that classify: examples, batches, the network with one kind of unit."""
