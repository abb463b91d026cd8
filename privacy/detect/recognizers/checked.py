"""A Presidio recogniser around one finder of this package."""

from __future__ import annotations

from typing import ClassVar

from presidio_analyzer import AnalysisExplanation, EntityRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NlpArtifacts

from privacy.detect.finders import FINDERS
from privacy.detect.text import normalise
from privacy.entities import EntityKind

__all__ = ["CheckedRecognizer"]


class CheckedRecognizer(EntityRecognizer):
    """Normalises the text, asks the finder of `KIND`, and answers in the original offsets.

    Needs no language model. The scores stand for what was checked, and already take the words before a
    number into account, so context enhancement has nothing to add.
    """

    KIND: ClassVar[EntityKind]

    def __init__(self, supported_language: str = "zh") -> None:
        super().__init__(
            supported_entities=[str(self.KIND)], supported_language=supported_language, version="1.0.0"
        )

    def load(self) -> None:
        """There is nothing to load."""

    def analyze(
        self,
        text: str,
        entities: list[str],
        nlp_artifacts: NlpArtifacts | None = None,  # noqa: ARG002 - Presidio passes it
    ) -> list[RecognizerResult]:
        """Return the findings of this recogniser's kind, if `entities` asks for it."""
        if str(self.KIND) not in entities:
            return []
        normalised = normalise(text)
        results = []
        for span in FINDERS[self.KIND](normalised.text):
            start, end = normalised.original(span.start, span.end)
            results.append(
                RecognizerResult(
                    entity_type=str(self.KIND),
                    start=start,
                    end=end,
                    score=span.score,
                    analysis_explanation=AnalysisExplanation(
                        recognizer=type(self).__name__,
                        original_score=span.score,
                        textual_explanation="shape and check",
                    ),
                    recognition_metadata={
                        RecognizerResult.RECOGNIZER_NAME_KEY: type(self).__name__,
                        RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id,
                    },
                )
            )
        return results
