"""Recogniser for names of people."""

from __future__ import annotations

from presidio_analyzer import AnalysisExplanation, EntityRecognizer, RecognizerResult
from presidio_analyzer.nlp_engine import NlpArtifacts

from privacy.detect.names import NameFinder
from privacy.entities import ModelKind

__all__ = ["PersonNameRecognizer"]


class PersonNameRecognizer(EntityRecognizer):
    """PERSON, as a name finder finds it; the engine's own language model is not asked."""

    def __init__(self, finder: NameFinder, supported_language: str = "zh") -> None:
        self._finder = finder
        self._title = f"{type(self).__name__} ({finder.language})"
        super().__init__(
            supported_entities=[str(ModelKind.PERSON)],
            supported_language=supported_language,
            name=self._title,
            version="1.0.0",
        )

    def load(self) -> None:
        """Nothing yet: the finder loads its model with the first text that needs it."""

    def analyze(
        self,
        text: str,
        entities: list[str],
        nlp_artifacts: NlpArtifacts | None = None,  # noqa: ARG002 - Presidio passes it
    ) -> list[RecognizerResult]:
        """Return the names in `text`, if `entities` asks for PERSON."""
        if str(ModelKind.PERSON) not in entities or not self._finder.matters(text):
            return []
        return [
            RecognizerResult(
                entity_type=str(span.kind),
                start=span.start,
                end=span.end,
                score=span.score,
                analysis_explanation=AnalysisExplanation(
                    recognizer=self._title,
                    original_score=span.score,
                    textual_explanation=self._finder.detector,
                ),
                recognition_metadata={
                    RecognizerResult.RECOGNIZER_NAME_KEY: self._title,
                    RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id,
                },
            )
            for span in self._finder.find([text])[0]
        ]
