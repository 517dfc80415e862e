"""What a network must beat: the loss of the best constant."""

import torch
from torch import Tensor, nn

from predictors.base import Batch, TrainedPredictor

STEPS = 50


def constant_loss(predictor: TrainedPredictor, batch: Batch) -> float:
    """The least loss on a batch of a predictor that says the same of every example.

    The last linear layer to be registered is taken to be the output layer: its weight is set to
    zero for a while, and its bias is fitted to this very batch.

    Raises:
        ValueError: the predictor has no linear layer with a bias.
    """
    layers = [layer for layer in predictor.modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].bias is None:
        raise ValueError(f"predictor {predictor.kind} must have an output layer with a bias")
    layer, was_training = layers[-1], predictor.training
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    optimizer = torch.optim.LBFGS([layer.bias], max_iter=STEPS, line_search_fn="strong_wolfe")
    losses: list[float] = []

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = predictor.loss(batch)
        found.backward()  # type: ignore[no-untyped-call]
        losses.append(float(found.detach()))
        return found

    try:
        predictor.eval()
        nn.init.zeros_(layer.weight)
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    finally:
        layer.load_state_dict(kept)
        predictor.train(was_training)
        predictor.zero_grad()
    return min(losses)
