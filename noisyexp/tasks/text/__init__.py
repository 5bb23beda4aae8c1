"""Shared by the tasks on text: corpora, streams, the word language model, what models write."""
