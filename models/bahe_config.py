"""Configuration of BAHE: upper layers over vectors of behaviours, and where their readings meet."""

from __future__ import annotations

from typing import Any

from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.features import Features
from sparsefront.spaces import Genome


class BaheConfig(Bert4CtrConfig):
    """The upper layers of an encoder, run over ``history_count`` histories of each row and over its item.

    What they run over are vectors that the lower layers have made of each text once; ``encoder_fingerprint`` is of
    those. The item and what was read of the histories meet in ``meeting_units``. Places in a history, the newest first,
    are as many as ``max_position_embeddings``, [CLS]'s included: behaviours beyond them are not read. A feature branch
    may read the histories.
    """

    model_type = "sparsefront_bahe"

    history_count: int = 1
    encoder_fingerprint: str = ""
    meeting_units: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("history_count", "meeting_units"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        super().__post_init__(**kwargs)
        if self.protect != "none":
            raise ValueError(f"no behaviour is protected, got protect {self.protect!r}")

    @property
    def histories(self) -> int:
        """``history_count``."""
        return self.history_count

    @property
    def behaviours(self) -> int:
        """Places of a history but that of [CLS]."""
        return int(self.max_position_embeddings) - 1

    def columns_of(self, genome: Genome) -> dict[str, Any]:
        """A genome's columns, and the places of as many behaviours as it reads."""
        without = genome.replace(0, "behaviours", 0)
        return {**super().columns_of(without), "max_position_embeddings": 1 + (genome.behaviours or self.behaviours)}

    @property
    def head_inputs(self) -> int:
        """``meeting_units``."""
        return self.meeting_units

    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Places, the state of [CLS], and what is added to an item."""
        width = self.hidden_size
        return {"first": (width,), "item": (width,), "position.weight": (self.max_position_embeddings, width)}

    def more_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the meeting and, where there are features, of their branch."""
        meeting = {
            "meeting.weight": (self.meeting_units, (1 + 2 * self.histories) * self.hidden_size),
            "meeting.bias": (self.meeting_units,),
        }
        return meeting | super().more_shapes()

    @classmethod
    def over(
        cls,
        text: CrossEncoderConfig,
        *,
        layers: int,
        histories: int,
        behaviours: int,
        encoder_fingerprint: str,
        features: Features | None = None,
        **more: Any,
    ) -> BaheConfig:
        """The layers of a text encoder above its first ``layers``, for so many histories of so many behaviours.

        Raises:
            ValueError: no layer would be left, or there are more behaviours than the text encoder has places for.
        """
        if not 0 <= layers < text.num_hidden_layers:
            raise ValueError(f"frozen layers must be between 0 and {text.num_hidden_layers - 1}, got {layers}")
        if not 1 <= behaviours < text.max_position_embeddings:
            raise ValueError(
                f"behaviours must be between 1 and {text.max_position_embeddings - 1}, the encoder's places less one, "
                f"got {behaviours}"
            )
        known = features or Features()
        upper = {
            name: list(getattr(text, name)[layers:])
            for name in ("layer_heads", "layer_ffn_units", "layer_keep_percent")
        }
        values = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "architectures")}
        more.setdefault("layer_feature_heads", [3 if len(known) else 0] * len(upper["layer_heads"]))
        return cls(
            **{**values, **upper, "protect": "none", "max_position_embeddings": behaviours + 1},
            history_count=histories,
            encoder_fingerprint=encoder_fingerprint,
            numeric_edges=[[float(edge) for edge in one.edges] for one in known.numeric],
            categorical_ids=[one.ids for one in known.categorical],
            **more,
        )
