"""What every predictor is: a small model, what it was trained for, and its folder.

A kind of predictor is a class registered under `adaeagle.predictors`. Its constructor takes its
settings alone; the layers are made by `prepare`, once the models are known that it is for.

    config.json          kind, settings, and what it was trained for and on
    model.safetensors    its weights

Shapes: P rounds side by side, M examples, B of them in a batch, V vocabulary, D feature size.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from adaeagle.cost.model import CostModel
from adaeagle.data.bundled import bundled_folder
from adaeagle.data.files import write_whole
from adaeagle.identity import ModelIdentity
from adaeagle.registry import PREDICTORS, lookup
from adaeagle.trace.trace import Trace
from predictors.token_table import TokenTable

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"

Kind = TypeVar("Kind", bound="Predictor")

Batch = Mapping[str, Tensor]
"""Some examples: their columns, and of the position each belongs to `features` [B, D],
`last_token_ids` [B] and `token_ids` [B], as `adaeagle.policy.Context` has them."""


@dataclass(frozen=True, slots=True)
class Examples:
    """What a predictor is trained on."""

    rows: Tensor  # [M] int64, the position of the trace that each belongs to
    columns: dict[str, Tensor]  # each [M, ...]: inputs and labels

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a predictor was trained for and on."""

    models: ModelIdentity
    trace: str = ""  # digest
    split: str = ""
    training: dict[str, Any] = field(default_factory=dict)  # how it was trained, what came out

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Metadata":
        return cls(**{**raw, "models": ModelIdentity(**raw["models"])})


@dataclass(frozen=True, slots=True)
class AcceptancePredictions:
    """Of drafted tokens that a verification judges, or of nodes of trees that it might."""

    probs: Tensor  # [M] float32, the predictor's
    confidences: Tensor  # [M] float32, the draft's own, of the token or of its path
    accepted: Tensor  # [M] bool
    depths: Tensor  # [M] int64
    examples: Tensor  # [M] int64, which example each belongs to


@dataclass(frozen=True, slots=True)
class LengthPredictions:
    """Of chains' lengths, made before drafting."""

    predicted: Tensor  # [M] float32, not rounded
    true: Tensor  # [M] int64: the labels that it was trained on
    examples: Tensor  # [M] int64, which example each belongs to


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a predictor says; some kinds say one, some the other, some both."""

    acceptance: AcceptancePredictions | None = None
    lengths: LengthPredictions | None = None


@dataclass_transform(eq_default=False)
def setting_fields(cls: type[Kind]) -> type[Kind]:
    """Makes the annotated attributes of a predictor's class its constructor's keywords."""
    return dataclass(eq=False, repr=False)(cls)


class Predictor(nn.Module, ABC):
    """Tells, before or while a round drafts, how much of a draft will be accepted.

    Constructor keywords are plain values, kept as attributes of the same names: they are saved as
    the predictor's settings. A subclass is a `TrainedPredictor` or a `FittedPredictor`; ours are
    dataclasses (`@setting_fields`) whose fields are the settings.
    """

    kind: ClassVar[str]
    """The name it is registered under."""
    policies: ClassVar[tuple[str, ...]] = ()
    """Names of the policies that take it as `predictor`, which an evaluation replays."""
    needs_embedding: bool = False
    """`build` must be given the target's input embedding to train."""
    needs_features: bool = False
    """Reads the features of a batch."""
    needs_cost: bool = False
    """Its labels depend on what rounds cost."""

    metadata: Metadata
    _device = torch.device("cpu")

    def __post_init__(self) -> None:
        """After a dataclass has set its fields: a module needs more than them."""
        nn.Module.__init__(self)
        self.check_settings()

    def check_settings(self) -> None:
        """Refuses settings out of their range.

        Raises:
            ValueError: which, and what it must be.
        """

    def prepare(self, metadata: Metadata, embedding: Tensor | None = None) -> None:
        """Makes the layers.

        Args:
            metadata: what it is for.
            embedding: [V, D] the target's input embedding, to train with; None: to load into.
        """
        self.metadata = metadata
        self.build(metadata.models, embedding)

    @abstractmethod
    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        """Makes the layers for these models; random numbers come from torch's own generator."""

    @abstractmethod
    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        """Everything a trace has to teach; `cost` is there where `needs_cost`.

        Raises:
            ValueError: the trace lacks what is needed; the message says what.
        """

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Means over a batch of examples that validation tells, beside a loss."""
        return {}

    def predictions(self, batch: Batch) -> "Predictions":
        """What it says of examples, beside what became of them: for evaluation.

        Raises:
            ValueError: it makes no predictions that can be compared with outcomes.
        """
        raise ValueError(f"predictor {self.kind} has no `predictions` that could be evaluated")

    def move_to(self, device: torch.device) -> None:
        """Moves its weights; called every round, so where nothing is to be done it is quick."""
        if self._device != device:
            self._device = device
            self.to(device)

    def check(self, models: ModelIdentity) -> None:
        """Refuses models that this predictor was not trained for.

        Raises:
            ValueError: the message says which, by name and weights.
        """
        mine = self.metadata.models
        for part in ("target", "drafter"):
            theirs = getattr(models, f"{part}_weights")
            if theirs != getattr(mine, f"{part}_weights"):
                raise ValueError(
                    f"{part} of predictor {self.kind} must be the one it was trained for, "
                    f"{getattr(mine, part)} (weights {getattr(mine, f'{part}_weights')}), "
                    f"got {getattr(models, part) or 'none'} (weights {theirs or 'unknown'})"
                )
        self.check_feature_size(models.feature_size)

    def check_feature_size(self, feature_size: int) -> None:
        """Refuses features of another size than it was trained for."""
        mine = self.metadata.models.feature_size
        if feature_size != mine:
            raise ValueError(
                f"features of predictor {self.kind} must be of size {mine}, got {feature_size}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the constructor was given."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def stored(self) -> dict[str, Tensor]:
        """The weights to save: the state of a predictor that was built without embedding."""
        weights = dict(self.state_dict())
        for name, module in self.named_modules():
            if isinstance(module, TokenTable):
                weights.pop(f"{name}.layer.weight", None)
                weights[f"{name}.table"] = module.to_table()
        return weights

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Takes back what `stored` gave."""
        self.load_state_dict(weights)

    def save(self, folder: Path) -> None:
        """Writes weights and configuration, each file whole or absent."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.stored().items()}
        write_whole(folder / WEIGHTS, safetensors.torch.save(weights))
        config = {
            "format": FORMAT,
            "kind": self.kind,
            "settings": self.settings,
            "about": asdict(self.metadata),
        }
        write_whole(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


class TrainedPredictor(Predictor):
    """A network that is trained by gradient descent on batches of its examples."""

    def measure(self, batch: Batch) -> None:
        """Before training: learns scales of inputs from examples of it, the same in every process.

        Raises:
            ValueError: the examples cannot teach this predictor.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""


class FittedPredictor(Predictor):
    """A model that is fitted to all of its examples at once."""

    @abstractmethod
    def fit(self, batch: Batch, seed: int) -> None:
        """Learns from all training examples at once; what it learned is in buffers.

        Raises:
            ValueError: they cannot teach it, e.g. all of one class.
        """

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        if weights.keys() != self.state_dict().keys():
            raise ValueError(f"weights must be {', '.join(self.state_dict())}, got {list(weights)}")
        for name, values in weights.items():  # only the fit decides how large they are
            module, _, own = name.rpartition(".")
            setattr(self.get_submodule(module), own, values)


def load_predictor(source: str | Path) -> Predictor:
    """Reads a folder that `save` wrote, or a bundled predictor such as `mini/ldlp`.

    Raises:
        FileNotFoundError: there is no predictor.
        ValueError: it is damaged, or of a kind or format that is not known.
    """
    folder = _folder(source)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"predictor must be a folder with {CONFIG} and {WEIGHTS}, as `adaeagle "
                f"train-predictor` writes it, {source} has no {name}"
            )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if config["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {config['format']!r}")
        predictor: Predictor = lookup(config["kind"], PREDICTORS)(**config["settings"])
        predictor.prepare(Metadata.from_json(config["about"]))
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        predictor.restore(weights)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"predictor {source} cannot be read: {error}") from error
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"weights of predictor {source} must be finite, got NaN in {name}")
    return predictor.eval().requires_grad_(False)


def _folder(source: str | Path) -> Path:
    model, _, part = str(source).partition("/")
    return bundled_folder(model, f"predictors/{part}") or Path(source)


def load_as(kind: type[Kind], source: "str | Path | Predictor") -> Kind:
    """A predictor of a certain kind, loaded where it is given by name.

    Raises:
        ValueError: it is of another kind.
    """
    found = source if isinstance(source, Predictor) else load_predictor(source)
    if not isinstance(found, kind):
        raise ValueError(f"predictor must be a {kind.__name__}, got {found.kind} ({source})")
    return found


def finite(values: Tensor, name: str = "features") -> Tensor:
    """The values themselves.

    Raises:
        ValueError: some are NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values
