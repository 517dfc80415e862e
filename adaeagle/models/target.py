"""The target: a Hugging Face causal LM, without state of any text, and its sessions.

Shapes: T tokens, R rows of a tree forward (the root and the nodes to verify), D hidden size,
V vocabulary.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adaeagle.data.bundled import bundled_folder
from adaeagle.display import Displayed
from adaeagle.models.backbone import LAST, Backbone, Features
from adaeagle.models.checks import check_tree, input_device, learn
from adaeagle.models.fetched import fetched_folder
from adaeagle.models.gguf import gguf_arguments, is_gguf, unwrap
from adaeagle.models.kernels import Mode, check_mode, mode_of
from adaeagle.models.kv_cache import KVCache, attention_mask
from adaeagle.models.output_head import OutputHead
from adaeagle.models.processors import check_processors
from adaeagle.models.supported import (
    check_attention,
    check_length,
    check_model,
    check_type,
    read_config,
)
from adaeagle.models.tokenizer import Messages, encode_chat, load_tokenizer
from adaeagle.tree import DraftTree, ExtraRows, ancestors

log = logging.getLogger(__name__)


class Target(Displayed):
    """A causal language model that verifies drafts.

    Args:
        model: a `transformers` causal LM, in evaluation mode.
        tokenizer: its tokenizer, if it has one; token ids work everywhere.
        max_length: most tokens of prompt and text together; None: the model's context.
        name: what results call it.
        kernels: what multiplies by the weights on a CPU, see `adaeagle.models.kernels`: "torch",
            "onednn", or "auto", the quicker one of each shape. Heads and draft models follow it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int | None = None,
        name: str = "",
        kernels: Mode = "torch",
    ) -> None:
        check_mode(kernels)
        check_model(model)
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or max_length
        if context is None:
            raise ValueError(f"max_length must be given, {config.model_type!r} states no context")
        if max_length is not None and not 1 < max_length <= context:
            raise ValueError(f"max_length must be in 2..{context}, got {max_length}")
        self.model = model
        model.eval()  # type: ignore[no-untyped-call]
        self.tokenizer = tokenizer
        self.max_length = max_length or int(context)
        self.name = name or str(config.name_or_path or config.model_type)
        self.config = config
        self.device = input_device(model)
        """Where token ids go in, and features and logits come out."""
        check_length(config, self.max_length)
        self._embedding = model.get_input_embeddings()
        self._spec = learn(model)
        self.body = Backbone(model, self._spec.layers, self.device)
        self.kernels = mode_of(kernels, model)
        self.body.pack(self.kernels)
        self._head = self._spec.head.packed(self.kernels)
        check_tree(model, self._run_tree)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        max_length: int | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        quantization: Any = None,
        chat_template: str | None = None,
        kernels: Mode = "auto",
    ) -> "Target":
        """Loads a bundled model ("mini"), a fetched one ("smollm2"), a folder, a GGUF file, or a
        Hugging Face id.

        Args:
            name: what to load.
            device: where to put it; None: what `device_map` says, or the GPU where there is one.
            dtype: of weights and cache; None: the checkpoint's own.
            max_length: most tokens of prompt and text together; None: the model's context.
            attn_implementation: "sdpa" or "eager"; None: what `transformers` takes.
            revision: of a Hugging Face repository.
            device_map: passed to `transformers`, to spread a model over devices.
            quantization: "4bit" or "8bit" by bitsandbytes, or a config that `transformers` takes.
            chat_template: in place of the tokenizer's own: the template, or a file that holds it.
            kernels: see `Target`; "auto" leaves small models as they are.

        Raises:
            NotImplementedError: the model's drafted text could differ from its plain text, or its
                files bring code of their own.
            ValueError: the checkpoint lacks weights, or a GGUF file or the tokenizer is not whole.
            FileNotFoundError: a known model has not been fetched.
            ModuleNotFoundError: a GGUF file is given, and the extra `adaeagle[gguf]` is missing.
        """
        if device is not None and device_map is not None:
            raise ValueError(f"device must be None where device_map is given, got {device!r}")
        folder = str(bundled_folder(name, "target") or fetched_folder(name) or name)
        check_attention(attn_implementation)
        gguf = gguf_arguments(name) if is_gguf(name) else {}
        if gguf:
            folder = str(Path(name).parent)
        check_type(read_config(folder, revision, gguf))
        if device is None and device_map is None and quantization is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if quantization in ("4bit", "8bit"):
            quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
                **{f"load_in_{quantization}": True}
            )
        given = {"device_map": device_map, "quantization_config": quantization}
        load: Any = AutoModelForCausalLM.from_pretrained  # typed for one of its two answers
        model, loaded = load(
            folder,
            dtype=dtype or "auto",
            attn_implementation=attn_implementation,
            revision=revision,
            trust_remote_code=False,
            output_loading_info=True,
            **gguf,
            **{key: value for key, value in given.items() if value is not None},
        )
        # `transformers` would draw them at random.
        if loaded["missing_keys"]:
            raise ValueError(
                f"{name} must hold every weight, missing {sorted(loaded['missing_keys'])}"
            )
        if gguf:
            unwrap(model)
        if device is not None:
            model.to(device)
        tokenizer = load_tokenizer(folder, revision, gguf, chat_template)
        return cls(model, tokenizer, max_length=max_length, name=name, kernels=kernels)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and cache; quantised weights are stored in another."""
        return self._spec.layers[0].dtype

    @property
    def hidden_size(self) -> int:
        """D, the size of features."""
        return self._spec.feature_size

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text, as the generation config says; () where there is none."""
        found = getattr(self.model.generation_config, "eos_token_id", None)
        if found is None:
            found = getattr(self.config, "eos_token_id", None)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, Sequence) else (int(found),)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Input embeddings: [...] int64 → [..., D]."""
        embedded: Tensor = self._embedding(token_ids)
        return embedded

    def logits(self, features: Tensor) -> Tensor:
        """The model's logits of features of its last layer, after its norm: [..., D] → [..., V]."""
        return self._head(features).to(self.device)

    def cut_head(self, token_ids: Tensor) -> OutputHead:
        """`logits` for the tokens [W] alone: [..., D] → [..., W]; see `OutputHead.cut_to`."""
        return self._spec.head.cut_to(token_ids).packed(self.kernels)

    def summary(self) -> dict[str, object]:
        num_parameters = sum(weight.numel() for weight in self.model.parameters())
        return {
            "name": repr(self.name),
            "type": self.config.model_type,
            "parameters": f"{num_parameters / 1e6:.1f}M",
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device,
            "max_length": self.max_length,
        }

    def encode_chat(self, messages: str | Messages, **template_arguments: Any) -> list[int]:
        """Token ids of a conversation that the assistant is to continue.

        A tokenizer without a chat template gets the contents joined by blank lines.

        Args:
            messages: each with role and content; a text is one message of the user's.
            template_arguments: passed to the chat template, such as `enable_thinking=False`.

        Raises:
            ValueError: there is no tokenizer, or the messages do not fit its template.
        """
        if self.tokenizer is None:
            raise ValueError(f"encode_chat needs a tokenizer, {self.name} has none: pass token ids")
        ends = {*self.eos_token_ids, self.tokenizer.eos_token_id}
        return encode_chat(self.tokenizer, messages, ends, template_arguments)

    def check_processors(self, is_greedy: bool = True) -> None:
        """Refuses generation-config settings that change logits and are not applied here."""
        check_processors(self.model.generation_config, is_greedy)

    def begin(
        self, num_texts: int, capacity: int, layers: tuple[int, ...] = (LAST,)
    ) -> "TargetSession":
        """A session on texts side by side, with room for `capacity` tokens of each.

        `layers` are those whose features the session gives, as in `forward`.
        """
        return TargetSession(self, num_texts, capacity, layers)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layers: tuple[int, ...] = (LAST,),
        used: Tensor | None = None,
    ) -> Features:
        """Runs `token_ids` [B, R], appended to `cache`.

        Args:
            token_ids: [B, R] int64.
            position_ids: [B, R] int64.
            mask: additive [B, 1, R, S]; None: causal, everything before.
            cache: what came before, and grows; None: nothing, and nothing is kept.
            layers: whose features are `Features.chosen`: indices of `hidden_states` in
                `transformers`, 0 the embeddings, k what layer k reads, -1 the last features.
            used: [Q] int64, which of the B*R rows are no padding; None: all. What padding gives
                is nobody's.
        """
        if cache is not None:
            cache.reserve(token_ids.shape[1])
        features: Features = self.body(token_ids, position_ids, mask, cache, layers, used)
        return features

    def _run_tree(self, prompt_ids: list[int], root: Tensor, tree: DraftTree) -> Tensor:
        """Logits [1 + N, V] after a root and N nodes."""
        session = self.begin(1, len(prompt_ids) + 1 + len(tree))
        session.prefill(prompt_ids)
        return session.verify(root, tree, ancestors(tree))[1][0]

    def new_cache(self, capacity: int, num_texts: int = 1) -> KVCache:
        return KVCache(self._spec.layers, capacity, num_texts)


class TargetSession:
    """Texts on a target: their cache, tree forwards, and the commit of accepted paths."""

    def __init__(
        self, target: Target, num_texts: int, capacity: int, layers: tuple[int, ...]
    ) -> None:
        self.target = target
        self.layers = layers
        self.cache = target.new_cache(capacity, num_texts)

    def prefill(self, prompt_ids: Sequence[int], row: int = 0) -> tuple[Features, Tensor]:
        """Begins a text: features [1, T, D] of its prompt and logits [1, V] after it.

        Args:
            prompt_ids: T tokens, at least one.
            row: which of the texts side by side it is; whatever was there is forgotten.
        """
        if not prompt_ids:
            raise ValueError("prompt_ids must hold at least one token, got none")
        num_tokens = len(prompt_ids)
        self.cache.begin_text(row, 0)
        self.cache.reserve(max(0, num_tokens - self.cache.length))
        token_ids = torch.tensor([list(prompt_ids)], device=self.target.device)
        positions = torch.arange(num_tokens, device=self.target.device).unsqueeze(0)
        own = self.cache.only(row)
        features = self.target.forward(token_ids, positions, None, own, self.layers)
        self.cache.begin_text(row, num_tokens)
        return features, self.target.logits(features.last[:, -1])

    def verify(
        self, roots: Tensor, tree: DraftTree, paths: Tensor, extra: ExtraRows | None = None
    ) -> tuple[Features, Tensor]:
        """Runs the roots and the drafted nodes in one forward, each attending to its own path.

        Args:
            roots: [P] int64, the pending tokens.
            tree: N nodes of each round.
            paths: [P, N, N] bool, `ancestors` of the tree.
            extra: X rows beside the tree's, which are behind it.

        Returns:
            features of R = 1 + N + X rows and logits [P, R, V]; row 0 is the root's.
        """
        token_ids, depths = roots.unsqueeze(1), torch.zeros_like(roots).unsqueeze(1)
        own = torch.ones(len(roots), 1, 1, dtype=torch.bool, device=roots.device)
        if len(tree) > 0:
            token_ids, depths = (
                torch.cat(pair, dim=1)
                for pair in ((token_ids, tree.token_ids), (depths, tree.depths))
            )
            own = _below_root(paths)
        if extra is not None:
            token_ids, depths = (
                torch.cat(pair, dim=1)
                for pair in ((token_ids, extra.token_ids), (depths, extra.depths))
            )
            own = _beside(own, extra.allowed)
        lengths = torch.tensor(self.cache.lengths, device=roots.device)
        start, mask = max(self.cache.lengths), None
        if token_ids.shape[1] > 1 or min(self.cache.lengths) < start:
            mask = attention_mask(self.cache.lengths, own, start, self.target.dtype)
        used = _used_rows(tree, token_ids.shape[1])
        features = self.target.forward(
            token_ids, depths + lengths.unsqueeze(1), mask, self.cache, self.layers, used
        )
        if used is None:
            return features, self.target.logits(features.last)
        found = self.target.logits(features.last.flatten(0, 1)[used])
        logits = found.new_zeros(token_ids.numel(), found.shape[1]).index_copy_(0, used, found)
        return features, logits.view(*token_ids.shape, -1)

    def commit(self, rows: Sequence[Sequence[int]]) -> None:
        """Keeps, of each text, rows of the last forward: the root's and its accepted path's.

        Args:
            rows: of each text, ascending, 0 first; none of a text that has ended.
        """
        self.cache.commit(rows)

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the texts alone, ascending."""
        self.cache.keep(rows)


def _used_rows(tree: DraftTree, num_rows: int) -> Tensor | None:
    """Of P texts with `num_rows` rows each, those that are no padding, [Q] int64; None: all.

    On a CPU a row that is left out is time saved; elsewhere to ask which ones takes as long.
    """
    if tree.is_dense or tree.num_rounds == 1 or not tree.valid.is_cpu:
        return None
    is_used = F.pad(tree.valid, (1, num_rows - 1 - len(tree)), value=True)
    return None if is_used.all() else is_used.flatten().nonzero().squeeze(1)


def _below_root(paths: Tensor) -> Tensor:
    """What root and nodes see of each other: [P, N, N] bool → [P, 1 + N, 1 + N]."""
    own = F.pad(paths, (1, 0, 1, 0))
    own[..., 0] = True
    return own


def _beside(own: Tensor, allowed: Tensor) -> Tensor:
    """Extra rows see the root and each other, and nobody else sees them.

    [P, R, R] and [P, X, X] → [P, R + X, R + X].
    """
    num_rows, num_extra = own.shape[1], allowed.shape[1]
    joined = F.pad(own, (0, num_extra, 0, num_extra))
    joined[:, num_rows:, 0] = True
    joined[:, num_rows:, num_rows:] = allowed
    return joined
