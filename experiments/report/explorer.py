"""What the page's explorer shows, as the JSON that `templates/explorer.js` reads.

    policies   [{name, family}]; family is null where no oracle was solved
    members    {family: [spec]}, the fixed drafts among which `dp` chooses
    texts      [{label, prompt, said: [text], tokens: [place], target: [probability or null]}]
    rounds     [policy][text] → [round], in order
    oracle     {family: [text][position] → foresight}
    tokens     [[text, id]], which texts and trees name by their places

A round is a list: position, draft forwards, tokens drafted, verified, accepted, emitted,
milliseconds ([draft, verify, other] or null), then of each node of its tree its token, its parent
(-1: the root) and its probability in thousandths, and a string of their fates. A foresight is a
list: member, draft forwards, tokens drafted, verified, accepted, emitted, milliseconds.
"""

from dataclasses import dataclass
from typing import Any

from adaeagle.data.prompts import spread
from adaeagle.trace.text import RecordedText
from experiments.report.finished import Finished
from experiments.report.replayed_rounds import (
    FAMILIES,
    NothingToExploreError,
    ReplayedRounds,
    replay_rounds,
)
from experiments.report.token_texts import TokenTexts, load_tokenizer


@dataclass(frozen=True, slots=True)
class Explored:
    """An explorer's content, and what had to be left out of it."""

    data: dict[str, Any]
    prompt_ids: list[str]
    remarks: list[str]


def explore(run: Finished, num_prompts: int) -> Explored:
    """Everything that can be looked at of some prompts.

    Args:
        run: whose rounds they are.
        num_prompts: at most, taken from each source in turn.

    Raises:
        NothingToExploreError: there is nothing.
    """
    if num_prompts == 0:
        raise NothingToExploreError("no prompts were asked for")
    prompt_ids = [record.id for record in spread(run.records, num_prompts)]
    played = replay_rounds(run, prompt_ids)
    token_texts = TokenTexts(load_tokenizer(played.target))
    return Explored(_data(run, played, token_texts), prompt_ids, played.remarks)


def _data(run: Finished, played: ReplayedRounds, token_texts: TokenTexts) -> dict[str, Any]:
    family_of = run.results["oracle"]["family_of"] if played.oracle else {}
    return {
        "policies": [{"name": name, "family": family_of.get(name)} for name in played.policies],
        "members": {name: FAMILIES[name]() for name in played.oracle},
        "texts": [_text(text, token_texts) for text in played.texts],
        "rounds": [
            [
                [one._replace(token_ids=token_texts.places(one.token_ids)) for one in rounds]
                for rounds in by_text
            ]
            for by_text in played.policies.values()
        ],
        "oracle": played.oracle,
        # Last, when all that names a token has asked for it.
        "tokens": list(zip(token_texts.texts, token_texts.token_ids, strict=True)),
    }


def _text(text: RecordedText, token_texts: TokenTexts) -> dict[str, Any]:
    kind = text.source or text.category
    turn = f", turn {text.turn + 1}" if text.turn > 0 else ""
    label = text.prompt_id if text.prompt_id.startswith(kind) else f"{kind}: {text.prompt_id}"
    token_ids = text.token_ids.tolist()
    is_top = (text.top_token_ids[:, 0] == text.token_ids).tolist()
    shares = text.top_log_probs[:, 0].exp().tolist()
    return {
        "label": label + turn,
        "prompt": token_texts.prompt(text.prompt_ids.tolist()),
        "said": token_texts.flow(token_ids),
        "tokens": token_texts.places(token_ids),
        "target": [
            round(share, 4) if known else None for share, known in zip(shares, is_top, strict=True)
        ],
    }
