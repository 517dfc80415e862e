"""How far a chain of drafts will be accepted, as a distribution: a distributional LDLP of our own.

LDLP (AdaEAGLE, https://arxiv.org/abs/2412.18910) tells one length before drafting. This network
estimates, before drafting and again after every drafted token,

    accept   the probability that this token is accepted, given that those before it are
    ahead    the same of each of the next few tokens, which are not drafted yet

so the distribution of the accepted length is known at any time, given all that was seen: survival
analysis in discrete time. What to do with it is for a policy that knows what rounds cost. Differs
from LDLP: a distribution instead of a length; it sees the draft's probabilities and tokens as they
come; the pending token is among its inputs; and so is whether the text repeats itself, whether the
draft goes along with what followed the last time, and how much of its own end the text has said
before (`predictors.data.suffix_match`); no threshold and no rounding.

It is small, because it is asked between draft forwards: the context is encoded once a round, a
token costs one layer of `hidden_size`.

Shapes: B rounds, K tokens of a chain, M tokens looked ahead, S scalars, V vocabulary,
H hidden size.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.ranges import at_least, in_unit
from adaeagle.replay.expected import acceptance_chances
from adaeagle.trace.trace import Trace
from predictors.acceptance.base import check_classes
from predictors.base import (
    AcceptancePredictions,
    Batch,
    Examples,
    LengthPredictions,
    Predictions,
    TrainedPredictor,
    setting_fields,
)
from predictors.data.chains import read_chains, round_starts
from predictors.data.suffix_match import WINDOW, echoes, repeats
from predictors.hazard.scorer import (
    ECHOES,
    LEAST_LOG_PROB,
    LEAST_PATH_LOG_PROB,
    HazardNetwork,
    HazardScorer,
)
from predictors.layers.context import ContextLayer, Standardize
from predictors.token_table import TokenTable

NUM_SCALARS = 12
LONG = (8, 16, 40)
"""Matches of more tokens are told apart: what a text says a second time may be a loop."""


@setting_fields
class HazardPredictor(HazardNetwork, TrainedPredictor):
    """A network of acceptance, step by step.

    Args:
        k_max: tokens of the chains it is trained on.
        horizon: M, how many tokens it looks ahead.
        hidden_size: H.
        dropout: share of inputs that training leaves out.
        labels: "accepted": whether the text has the token, as at temperature 0; "drawn": the chance
            that a token drawn in its place is accepted at temperature 1, 1 - TV(target, draft).
    """

    kind = "hazard"
    policies = ("cost_aware",)
    needs_embedding = True
    needs_features = True

    k_max: int = 16
    horizon: int = 6
    hidden_size: int = 32
    dropout: float = 0.2
    labels: Literal["accepted", "drawn"] = "accepted"

    def check_settings(self) -> None:
        if self.labels not in ("accepted", "drawn"):
            raise ValueError(f"labels must be 'accepted' or 'drawn', got {self.labels!r}")
        at_least(1, k_max=self.k_max, horizon=self.horizon, hidden_size=self.hidden_size)
        in_unit(dropout=self.dropout, with_one=False)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        size = self.hidden_size
        self.context = ContextLayer(models, size, embedding, use_embedding=False, use_pending=True)
        self.matched = nn.Linear(1 + len(LONG), size, bias=False)
        self.mix = nn.Linear(size, size)
        self.scale = Standardize(NUM_SCALARS)
        self.step = nn.Linear(NUM_SCALARS, size)
        self.token = TokenTable(models.vocab_size, size, embedding)
        self.last = nn.Linear(size, 1 + self.horizon)
        # How often a round accepts so many tokens: what a fixed chain would emit.
        self.register_buffer("num_accepted", torch.zeros(self.k_max + 1))

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        """One a position: its chain, and what became of it."""
        chains = read_chains(trace, self.k_max)
        rows = torch.arange(len(trace.positions))
        found = repeats(trace.positions.recent(rows, WINDOW), self.k_max)
        columns = {
            "draft_token_ids": chains.token_ids,
            "log_probs": chains.log_probs,
            "accepted": chains.accepted,
            "num_known": chains.num_known,
            "repeated": torch.tensor([repeat.length for repeat in found]),
            "following": torch.tensor([repeat.following for repeat in found]),
            "echoes": torch.tensor([*map(echoes, found, chains.token_ids.tolist())]),
        }
        # A fixed chain's rounds begin alike.
        columns["is_entered"] = torch.zeros_like(rows, dtype=torch.bool)
        columns["is_entered"][round_starts(trace.positions, chains.lengths)] = True
        if self.labels == "drawn":
            columns["chances"] = acceptance_chances(trace, self.k_max).low.float()
        return Examples(rows, columns)

    def measure(self, batch: Batch) -> None:
        check_classes(batch["accepted"].flatten())
        self.context.measure(batch)
        self.scale.measure(chain_scalars(batch).flatten(0, 1))
        lengths = batch["accepted"].sum(1)[batch["is_entered"]]
        counts = torch.bincount(lengths, minlength=self.k_max + 1).float()
        self.get_buffer("num_accepted").copy_(counts / counts.sum().clamp(min=1))

    def encode(self, batch: Batch) -> Tensor:
        """What steps need of the context, [B, H]."""
        context = self.context(batch) + self.matched(matched_scalars(batch["repeated"]))
        mixed: Tensor = self.mix(F.relu(F.dropout(context, self.dropout, self.training)))
        return mixed

    def forward(self, batch: Batch) -> Tensor:
        """Log-odds after 0 to K drafted tokens: of the last one, and of the M that follow.

        Returns:
            [B, K + 1, 1 + M]; the first entry of place 0 means nothing.
        """
        encoded = self.encode(batch).unsqueeze(1)
        scalars, token_ids = chain_scalars(batch), batch["draft_token_ids"]
        undrafted = self.log_odds(encoded, scalars[:, :1])
        return torch.cat((undrafted, self.log_odds(encoded, scalars[:, 1:], token_ids)), dim=1)

    def log_odds(self, encoded: Tensor, scalars: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Log-odds of tokens, and of each of the M that follow if all before it are accepted.

        Args:
            encoded: [..., H], of `encode`.
            scalars: [..., S], as of `chain_scalars`.
            token_ids: [...]; None: before anything is drafted.

        Returns:
            [..., 1 + M].
        """
        hidden = self.step(self.scale(scalars)) + encoded
        if token_ids is not None:
            hidden = hidden + F.dropout(self.token(token_ids), self.dropout, self.training)
        odds: Tensor = self.last(F.relu(hidden))
        return odds

    def scorer(self) -> HazardScorer:
        """What a rule asks while it drafts."""
        return HazardScorer(self)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of all labels; the more a chain has, the less each of them weighs.

        In a text that loops every chain is long, and there is little to be decided.
        """
        labels, is_known = self.targets(batch)
        losses = F.binary_cross_entropy_with_logits(self(batch), labels, reduction="none")
        weights = is_known / is_known.sum((1, 2), keepdim=True).clamp(min=1).sqrt()
        return (losses * weights).sum() / weights.sum()

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `forward` should say, and where a text tells it: float and bool [B, K + 1, 1 + M].

        A token is judged where all before it are accepted and the text goes on as far.
        """
        lengths, known = batch["accepted"].sum(1), batch["num_known"]
        places = torch.arange(self.k_max + 1, device=lengths.device).unsqueeze(1)
        token = places + torch.arange(1 + self.horizon, device=lengths.device)  # which of the chain
        lengths, known = lengths.view(-1, 1, 1), known.view(-1, 1, 1)
        is_known = (token >= 1) & (token <= known) & (lengths >= token - 1)
        if self.labels == "accepted":
            return (lengths >= token).float(), is_known
        return batch["chances"][:, token.clamp(1, self.k_max) - 1], is_known

    def predictions(self, batch: Batch) -> Predictions:
        """Of each drafted token as soon as it is drafted, and of lengths before any is."""
        log_odds = self(batch)
        row, place = self.targets(batch)[1][:, 1:, 0].nonzero().unbind(1)  # of [B, K]
        acceptance = AcceptancePredictions(
            probs=log_odds[:, 1:, 0].sigmoid()[row, place],
            confidences=batch["log_probs"].exp()[row, place],
            accepted=batch["accepted"].bool()[row, place],
            depths=place + 1,
            examples=row,
        )
        whole = (batch["num_known"] == self.k_max).nonzero().flatten()
        ahead = log_odds[whole, 0, 1:].sigmoid()[:, : self.k_max]
        # Beyond the horizon it goes on as at its end.
        last = ahead[:, -1:].expand(-1, self.k_max - ahead.shape[1])
        lengths = LengthPredictions(
            predicted=torch.cat((ahead, last), dim=1).cumprod(1).sum(1),
            true=batch["accepted"][whole].sum(1),
            examples=whole,
        )
        return Predictions(acceptance, lengths)

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Brier score of the drafted tokens' acceptance, and of the next, undrafted one's."""
        labels, is_known = self.targets(batch)
        errors = (self(batch).sigmoid() - labels).square() * is_known
        each = errors.sum((0, 1)) / is_known.sum((0, 1)).clamp(min=1)
        return {"brier": each[0], "brier_ahead": each[1]}


def chain_scalars(batch: Batch) -> Tensor:
    """What is known after 0 to K tokens of chains, but for their tokens: [B, K + 1, S].

    The last token's log-prob and that of all together, both again as probabilities, whether the
    chain goes along with what followed where the text's end was said before, that times the
    logarithm of how long a match it was, what `depth_scalars` tells, and `ECHOES`.
    """
    own = F.pad(batch["log_probs"].clamp(min=LEAST_LOG_PROB), (1, 0))
    path = own.cumsum(1).clamp(min=LEAST_PATH_LOG_PROB)
    follows = F.pad(batch["draft_token_ids"] == batch["following"], (1, 0), value=True)
    goes_along = follows.long().cumprod(1) * (batch["repeated"] > 0).unsqueeze(1)
    matched = batch["repeated"].float().log1p().unsqueeze(1)
    columns = (own, path, own.exp(), path.exp(), goes_along, goes_along * matched)
    depths = depth_scalars(own.shape[1]).to(own.device).expand(len(own), -1, -1)
    echo = torch.tensor(ECHOES, device=own.device).float()[F.pad(batch["echoes"], (1, 0))]
    return torch.cat((torch.stack(columns, dim=-1), depths, echo), dim=-1)


def matched_scalars(lengths: Tensor) -> Tensor:
    """Of how long a match a text ends with, [...]: [..., 1 + thresholds]."""
    is_long = lengths.unsqueeze(-1) > torch.tensor(LONG, device=lengths.device)
    return torch.cat((lengths.float().log1p().unsqueeze(-1), is_long.float()), dim=-1)


def depth_scalars(num_places: int) -> Tensor:
    """Of the first places of a chain, [places, 2]."""
    depth = torch.arange(num_places).float()
    return torch.stack((depth, depth.sqrt()), dim=-1)
