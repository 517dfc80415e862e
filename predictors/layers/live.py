"""What is known before rounds, as a batch of examples has it."""

from adaeagle.policy import Context
from predictors.base import Batch, Predictor, finite


def live_batch(predictor: Predictor, context: Context) -> Batch:
    """What is known before rounds, [P]; the predictor is moved to where it is.

    Raises:
        ValueError: the predictor reads features, and there are none, or of another size, or not
            finite.
    """
    batch = {"last_token_ids": context.last_token_ids, "token_ids": context.token_ids}
    predictor.move_to(context.token_ids.device)
    if predictor.needs_features:
        if context.features is None:
            raise ValueError(f"features must be given to predictor {predictor.kind}, got none")
        predictor.check_feature_size(context.features.shape[1])
        batch["features"] = finite(context.features)
    return batch
