"""Every option that several verbs take, defined once, and what reads the lists in options."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from interp.errors import DataError, InterpError, PlanError, did_you_mean, shown
from interp.loading.devices import check_spelling
from interp.model.sites import PATTERN, SITES, parse_site

if TYPE_CHECKING:
    from interp.data.chat import Chat, Conversation
    from interp.data.pairs import PromptPairs
    from interp.model.model import Model

METRICS = ("logit_diff", "logprob", "logprob_per_token", "prob", "kl", "rank")
GAP_METRICS = ("logit_diff", "logprob", "logprob_per_token", "prob")
DTYPES = ("float32", "bfloat16", "float16")
QUANTISATIONS = ("8bit", "4bit")
ATTRIBUTION = ("exact", "eap", "eap-ig", "eap-gl", "eap-dg", "relp", "clean-corrupted")
ABLATIONS = ("resample", "mean", "zero", "noise")
EMOTIONS = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
# the names that modules know which import torch; tests/test_options.py compares them

LONGEST = 240
"""Bytes in the name of a result: file systems take 255, and unfinished ones have longer names."""


def choice(
    names: Iterable[str],
    help: str,
    *flags: str,
    many: bool = False,
    noun: str | None = None,
    others: Callable[[str], Any] | None = None,
) -> Any:
    """An option that takes one of some names, or several with commas.

    Args:
        names: what it takes; `--help` shows them.
        help: a full phrase.
        flags: as of `typer.Option`.
        many: take several, separated by commas.
        noun: what a name is one of, for messages; by default the option's own name.
        others: called with a name that is not listed; raises where it is not known either.

    Returns:
        For `Annotated`. Another name is refused, with the nearest ones, before the verb runs.
    """
    known = tuple(names)

    def checked(param: typer.CallbackParam, value: str | None) -> str | None:
        given = [] if value is None else names_in(value) if many else [value]
        for name in given:
            if name not in known and others is not None:
                others(name)
            elif name not in known:
                what = noun or param.opts[0].strip("-").removesuffix("s" if many else "")
                raise InterpError(f"unknown {what} {name!r}. {did_you_mean(name, known)}")
        return ",".join(given) if many and value is not None else value

    listed, end = "|".join(known), ",…" if many else ""
    short = len(listed) <= 34  # longer ones would be broken anywhere in the column of a terminal
    return typer.Option(
        *flags,
        help=help if short else f"{help} {'Any' if many else 'One'} of: {', '.join(known)}.",
        metavar=f"[{listed}]{end}" if short else f"<name>{end}",
        callback=checked,
        autocompletion=lambda: list(known),
    )


def names_in(text: str) -> list[str]:
    """The names in ``"a,b"``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(option: str, text: str | None) -> list[int] | None:
    """The whole numbers in ``"0,4,8-11"``, `InterpError` for another form; None of no option."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None:
            raise InterpError(
                f"{option} {shown(text, 80)}: write numbers and ranges, such as 0,4,8-11."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 100_000:
            raise InterpError(f"{option} {shown(text, 80)}: {part.strip()} is not a usable range.")
        found.extend(range(first, last + 1))
    return found


def _named(value: Path | None) -> Path | None:
    """Refuse a name that a folder cannot have, now and not when a model has run for an hour."""
    if value is not None and any(len(os.fsencode(part)) > LONGEST for part in value.parts):
        raise DataError(
            f"--out {shown(str(value))}: a name is longer than {LONGEST} bytes; choose another."
        )
    return value


def _out(value: Path | None) -> Path | None:
    """Refuse a folder of something else as early."""
    if value is not None and _named(value) and value.exists():
        from interp.results.folder import refuse_foreign

        refuse_foreign(value)
    return value


def _device(value: str | None) -> str | None:
    """Refuse a name that means no device now; `load_model` checks whether it is there."""
    return None if value is None else check_spelling(value)


def _site(value: str) -> str:
    if parse_site(value)[0] is PATTERN:
        raise PlanError(
            "the attention pattern cannot be replaced; choose one of "
            f"{', '.join(SITES)}, or cut attention edges with `interp.KnockOut`."
        )
    return value


MODEL = "Built-in name, Hub id, local folder or .gguf file"
ModelOption = Annotated[str, typer.Option("--model", help=f"{MODEL}.")]
RecipeModelOption = Annotated[
    str | None, typer.Option("--model", help=f"{MODEL}; by default the recipe's model.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="Device: cpu, cuda, cuda:1, …; by default CUDA if there is one.", callback=_device
    ),
]
DtypeOption = Annotated[
    str | None, choice(DTYPES, "Number format; by default float32 on a CPU and bfloat16 on CUDA.")
]
QuantizationOption = Annotated[
    str | None, choice(QUANTISATIONS, "Quantise the weights while loading, with bitsandbytes.")
]
PromptOption = Annotated[str, typer.Option(help="Text of the prompt.")]
PairsOption = Annotated[
    str,
    typer.Option(
        help="Prompt pairs: a name from `interp datasets`, a JSONL file or a Hub data set."
    ),
]
NeutralOption = Annotated[
    str | None,
    typer.Option(help="Text whose perplexity is measured, too: neutral_text, or a text file."),
]
CasesOption = Annotated[
    str,
    typer.Option(
        help="Edit cases: multihop_chains, or a JSON file or Hub data set in MQuAKE's schema; to "
        "evaluate, also of MQuAKE-Remastered, CounterFact, zsRE, RippleEdits and KnowEdit."
    ),
]
PlacementOption = Annotated[
    Path | None,
    typer.Option(help="Folder of `interp edit place`; built-in language models come with one."),
]
N_TOKENS = 20_000  # of `circuits.editing.moments`, which would load torch
TokensOption = Annotated[
    int,
    typer.Option(
        min=1, help="Number of the model's own tokens that second moments are taken over."
    ),
]
SiteOption = Annotated[
    str,
    typer.Option(
        help=f"Activation to replace: {', '.join(SITES)}, or a full hook name.",
        callback=_site,
        autocompletion=lambda: list(SITES),
    ),
]


def metric_choice(names: Iterable[str], help: str, many: bool = False, noun: str = "metric") -> Any:
    """As `choice`, of metrics; one may also be a function of the user's.

    It is given as ``module:function``, of a module in the current folder or where Python finds
    it, or is an entry point of the group ``interp.metrics``.
    """
    listed = tuple(names)

    def load(name: str) -> None:
        from interp.metrics import METRICS, as_metric, entry_points

        if name in METRICS or (":" not in name and name not in entry_points()):
            known = (*listed, *entry_points())
            raise InterpError(f"unknown {noun} {name!r}. {did_you_mean(name, known)}")
        if ":" in name and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        as_metric(name)

    return choice(listed, f"{help} Or module:function.", many=many, noun=noun, others=load)


MetricOption = Annotated[
    str, metric_choice(GAP_METRICS, "What is measured of the answers, or at the last token.")
]
AnswersOption = Annotated[
    str, choice(("whole", "first"), "Read all tokens of each answer, or only its first token.")
]
LayersOption = Annotated[
    str | None, typer.Option(help="Layers to use, such as 0,4,8-11; by default all.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use only the first N rows.")]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Random seed for bootstrap confidence intervals.")
]
SplitOption = Annotated[
    str | None, typer.Option(help="Use only the cases of this split, such as design or test.")
]
SplitByOption = Annotated[
    str | None,
    typer.Option(
        help="Divide the entities of this span (or spans: io,s1) into two halves: scores and "
        "circuits come from the discovery half, evaluation uses the test half. Applied before "
        "--limit."
    ),
]
SplitSeedOption = Annotated[
    int, typer.Option(min=0, help="Random seed of that division; the same for both halves.")
]
OUT_HELP = "Folder for the results; the same options go on from what is stored there."
OutOption = Annotated[Path | None, typer.Option(help=OUT_HELP, callback=_out)]
NeededOutOption = Annotated[Path, typer.Option(help=OUT_HELP, callback=_named)]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace another run, or a damaged one, that --out holds.")
]
PageOption = Annotated[
    Path | None, typer.Option(help="Where to write the page; by default RUN/index.html.")
]
JacobianOption = Annotated[
    Path | None, typer.Option(help="Folder of `interp jacobian-lens`: read through that lens.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")
]


@dataclass(frozen=True)
class Loading:
    """The options that say how a model is loaded."""

    device: DeviceOption = None
    dtype: DtypeOption = None
    quantization: QuantizationOption = None

    def load(self, name: str, dtype: str | None = None) -> "Model":
        """Load a model, saying so; in this `dtype` where the options name none."""
        from circuits.cli.output import load

        return load(name, self.device, self.dtype or dtype, self.quantization)


@dataclass(frozen=True)
class OnModel:
    """The options that choose a model."""

    model: ModelOption
    how: Loading

    def load(self) -> "Model":
        """Load it, saying so."""
        return self.how.load(self.model)


@dataclass(frozen=True)
class Into:
    """The options that say where a run goes."""

    out: OutOption = None
    force: ForceOption = False

    @property
    def run(self) -> str | None:
        """The folder as JSON holds it."""
        return None if self.out is None else str(self.out)


@dataclass(frozen=True)
class IntoFolder:
    """The same of a run that needs a folder."""

    out: NeededOutOption
    force: ForceOption = False


@dataclass(frozen=True)
class InChat:
    """The options that put prompts into the model's chat template."""

    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Put each plain prompt into the chat template as a user's turn."
        ),
    ] = False
    system: Annotated[
        str | None, typer.Option(help="Content of a system turn before it; implies --chat.")
    ] = None
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Switch the model's thinking on or off, where its template can; implies --chat.",
        ),
    ] = None
    prefill: Annotated[
        str | None,
        typer.Option(help="How the reply begins, such as 'The capital is'; implies --chat."),
    ] = None
    tools: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with a list of the schemas of functions that the model may call; "
            "implies --chat."
        ),
    ] = None

    def options(self) -> "Chat | None":
        """How chats are rendered; None where no option is given."""
        from interp.data.chat import Chat
        from interp.data.records import read_rows

        given: dict[str, Any] = {
            "system": self.system,
            "thinking": self.thinking,
            "prefill": self.prefill,
        }
        if not self.chat and self.tools is None and all(one is None for one in given.values()):
            return None
        tools = () if self.tools is None else tuple(read_rows(self.tools, "schemas of tools"))
        return Chat(**given, tools=tools)

    def prompt(self, text: str) -> "str | Conversation":
        """A prompt, in a chat if asked for."""
        from interp.data.chat import in_chat

        return in_chat(text, self.options())

    def settings(self) -> dict[str, Any]:
        """The field ``chat`` of a verb's settings, where an option is given."""
        chat = self.options()
        return {} if chat is None else {"chat": vars(chat)}

    def rows(self, rows: "PromptPairs") -> "PromptPairs":
        """Pairs, in chats if asked for."""
        chat = self.options()
        return rows if chat is None else rows.as_chat(chat)


@dataclass(frozen=True)
class PairRows:
    """The options that choose prompt pairs."""

    pairs: PairsOption
    limit: LimitOption = None
    split_by: SplitByOption = None
    split_seed: SplitSeedOption = 0

    def load(self, half: str, in_chat: InChat) -> "PromptPairs":
        """The pairs of one half (all of them without `split_by`), of which the first `limit`."""
        from interp.data.pairs import load_pairs
        from interp.data.splits import HALVES

        rows = in_chat.rows(load_pairs(self.pairs))
        return (self._split(rows, HALVES)[half] if self.split_by else rows)[: self.limit]

    def held_out(self, in_chat: InChat) -> "tuple[PromptPairs, PromptPairs]":
        """Of the discovery half pairs to score, others to choose a size on; `limit` each."""
        rows = replace(self, limit=None).load("discovery", in_chat)
        parts = self._split(rows, {"scores": 0.5, "size": 0.5})
        return parts["scores"][: self.limit], parts["size"][: self.limit]

    def _split(self, rows: "PromptPairs", parts: Mapping[str, float]) -> Any:
        """By entity if asked for, else by prompt; says how many pairs are lost."""
        from circuits.cli.output import stderr
        from interp.data.splits import split_by_entity as split

        halves = split(rows, self.split_by and self.split_by.split(","), parts, self.split_seed)
        for first in halves.dropped[:1]:
            n = f"{len(halves.dropped)} of {len(rows)} pairs are in neither half"
            stderr.print(escape(f"{n}; first: {first.where}: {first.reason}"), soft_wrap=True)
        return halves
