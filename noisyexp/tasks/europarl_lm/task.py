"""The language model of Table 2 on English Europarl."""

from __future__ import annotations

from pathlib import Path

from noisyexp.tasks.europarl_lm.text import load_europarl
from noisyexp.tasks.ptb.task import PTB


class EuroparlLM(PTB):
    """As `PTB` in all but the text: does what holds on one text hold on another?"""

    def prepare(self, root: Path) -> dict[str, str]:
        """Read the text and cut it into streams."""
        if self.source != "real":
            return super().prepare(root)
        self.corpus = load_europarl(root)
        self._cut(self.corpus)
        return self.corpus.files
