"""`adaeagle generate`: one policy answering prompts, round by round."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import options

if TYPE_CHECKING:
    from adaeagle import Piece

EXAMPLE = """Example:

adaeagle generate --prompt "List all files larger than 1 MB" --policy "chain(length=6)"

adaeagle generate --prompt "List all files larger than 1 MB" --show-drafts

The text goes to stdout as it comes, a summary to stderr; --json gives one line an answer with
token_ids, text and rounds."""


def generate(
    *,
    prompt: Annotated[
        str | None, typer.Option(help="One question.", rich_help_panel=options.TEXT)
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of --prompt: {options.PROMPTS[0].lower()}{options.PROMPTS[1:]}",
            rich_help_panel=options.TEXT,
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="How to draft; see `adaeagle policies`.", metavar="SPEC")
    ] = "eagle2",
    model_options: options.ModelOptions,
    limit: options.Limit = None,
    skip_long: options.SkipLong = False,
    max_new_tokens: options.MaxNewTokens = 256,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Text at which an answer ends; may be given several times.",
            metavar="TEXT",
            rich_help_panel=options.TEXT,
        ),
    ] = None,
    sampling: options.SamplingOptions,
    show_drafts: Annotated[
        bool,
        typer.Option(
            "--show-drafts",
            help="Show what became of every drafted token, round by round.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Answer prompts with one policy, showing the text as it comes."""
    from rich.console import Console

    from adaeagle.data.prompts import Conversation
    from adaeagle.drafters.identify import identify
    from adaeagle.registry import get_policy
    from experiments.commands.show import show
    from experiments.errors import InputError, argument
    from experiments.runs import generate as generating
    from experiments.runs.models import load_models, make_sampling
    from experiments.runs.settings import check_prompts
    from experiments.views.drafts import DraftView
    from policies.vanilla import Vanilla

    if show_drafts and as_json:
        raise InputError("--show-drafts must be given without --json, got both")
    chosen_sampling = make_sampling(sampling)
    with argument("--policy", policy):
        chosen = get_policy(policy)
    questions = generating.questions(prompt, prompts, limit)
    models = load_models(
        model_options,
        needs_drafter=not isinstance(chosen, Vanilla),
        is_greedy=chosen_sampling.is_greedy,
    )
    with argument("--policy", policy, errors=ValueError):
        chosen.check(partial(identify, models.target, models.drafter))
    if prompts is None:
        with argument("--prompt", prompt):
            Conversation(models.target, questions[0]).next_ids()
    else:
        questions = check_prompts(models.target, questions, prompts, skip_long=skip_long)
    view = DraftView(models.target.tokenizer, Console(highlight=False)) if show_drafts else None
    if view is not None:
        chosen = view.watch(chosen)

    def on_piece(piece: "Piece | None", text: str) -> None:
        if view is not None:
            if piece is not None:
                view.show(piece)
        elif not as_json:
            print(text, end="", flush=True)

    for question in questions:
        for answer in generating.answers(
            models, chosen, question, chosen_sampling, max_new_tokens, stop or (), on_piece
        ):
            if as_json:
                show(answer, as_json=True)
                continue
            text = answer["text"]
            shown = " ".join(map(str, answer["token_ids"])) if text is None else text
            print("" if view is None else f"\n{shown}", flush=True)
            print(_summary(answer), file=sys.stderr)


def _summary(answer: dict[str, Any]) -> str:
    num_tokens, num_rounds = len(answer["token_ids"]), len(answer["rounds"])
    tokens_per_round = (num_tokens - 1) / max(1, num_rounds)
    seconds = answer["seconds"]
    return (
        f"{num_tokens} tokens in {seconds:.2f} s, {num_tokens / seconds:.1f} tokens/s; "
        f"{num_rounds} rounds of {tokens_per_round:.2f} tokens"
    )
