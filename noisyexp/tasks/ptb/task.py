"""Word-level language modelling on the Penn Treebank (Table 2, Section 6.3)."""

from __future__ import annotations

from pathlib import Path

from noisyexp.tasks.text.corpus import Corpus, load_ptb
from noisyexp.tasks.text.word_model import WordLanguageModel


class PTB(WordLanguageModel):
    """The language model of Table 2 on its own text."""

    def read(self, root: Path) -> Corpus:
        """The Penn Treebank."""
        return load_ptb(root)
