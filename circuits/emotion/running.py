"""The whole chain from a recipe: discovery, replies in every arm, judges, one result."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from circuits.emotion.control import Control
from circuits.emotion.controlling import Progress, Writer, evaluate, fingerprint
from circuits.emotion.data import Reply, Scenario
from circuits.emotion.decoding import Decoding
from circuits.emotion.discovery import Discovery
from circuits.emotion.doses import modulated_arms, prompted_arms
from circuits.emotion.frames import Frames
from circuits.emotion.judge import Judge, Labelled, Verdict
from circuits.emotion.pages import control_report
from circuits.emotion.panel import default_judges, judge_by_lexicon, plain_replies, reading
from circuits.emotion.recipe import Recipe
from circuits.emotion.replying import Arm
from circuits.emotion.situations import Asking, situations
from interp.brief import brief
from interp.errors import PlanError, did_you_mean, shown
from interp.model.model import Model
from interp.results import run_folder
from interp.results.run_folder import RunFolder, identity

N_PLAIN = 120
"""Replies by which judges learn what a small model sounds like without an emotion."""


@brief
@dataclass(frozen=True)
class Sources:
    """The texts that a run needs.

    Attributes:
        events: scenarios whose events are replied to.
        frames: words and prompts.
        replies: self-written, as demonstrations and to fit the judges on.
        plain: scenarios, others than `events`, to which the reader replies without an emotion.
        verdicts: published replies for the judges, if they are at hand.
        labelled: small models' replies labelled blind, for the judges; those that
            answer one of `events` are left out.
    """

    events: Sequence[Scenario]
    frames: Frames
    replies: Sequence[Reply]
    plain: Sequence[Scenario]
    verdicts: Sequence[Verdict] = ()
    labelled: Sequence[Labelled] = ()

    def asking(self, style: str) -> Asking:
        """How replies are asked for.

        Args:
            style: frame and word set, such as ``felt:B``.

        Raises:
            PlanError: there is no such frame or word set.
        """
        frame, _, words = style.partition(":")
        if frame not in self.frames.frames or words not in self.frames.words:
            known = [f"{f}:{w}" for f in self.frames.frames for w in self.frames.words]
            raise PlanError(f"unknown style {shown(style)}. {did_you_mean(style, known)}")
        return Asking(self.frames, self.replies, frame, words)


def all_arms(model: Model, found: Discovery, recipe: Recipe) -> list[Arm]:
    """Every arm of the comparison, the unmodulated one first."""
    chat = bool(getattr(model.tokenizer, "chat_template", None))
    return [*prompted_arms(chat), *modulated_arms(found, recipe.doses)]


def chosen_arms(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """Some of the arms, and the unmodulated one, against which all are measured.

    Raises:
        PlanError: there is no arm of a name.
    """
    if names is None:
        return list(arms)
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            raise PlanError(f"no arm {shown(name)}. {did_you_mean(name, known)}")
    return [arm for arm in arms if arm.name in (*names, "unmodulated")]


def compare(
    model: Model,
    found: Discovery,
    recipe: Recipe,
    sources: Sources,
    load_reader: Callable[[str], Model],
    out: Path,
    names: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Control:
    """Put the arms to the events of the sources; a stopped run goes on arm by arm.

    Args:
        model: the model.
        found: its discovery.
        recipe: doses, limits, number of situations, decoding.
        sources: texts.
        load_reader: loads the judges' reader by name, once the replies are written.
        out: run folder.
        names: arms; all by default.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called as replies come.

    Raises:
        PlanError: an unknown arm, or the reader is the model itself.
    """
    if recipe.reader == model.name:
        raise PlanError(
            f"the judges' reader must not be the model under test, {model.name}; give another."
        )
    arms = chosen_arms(all_arms(model, found, recipe), names)
    n_events = sum(len(scenario.events) for scenario in sources.events)
    texts = situations(sources.events, min(recipe.n, n_events))
    named = {
        **recipe.record(),
        "arms": {arm.name: [arm.prompt, fingerprint(arm.modulation)] for arm in arms},
        "texts": run_folder.fingerprint(sources),
    }
    named = {name: value for name, value in named.items() if name != "model"}
    with RunFolder.open(
        out, "emotion evaluate", named | identity(model), unit="arms", force=force
    ) as run:
        if not run.finished:
            asking = sources.asking(recipe.style)
            writer = Writer(model, asking, texts, recipe.decoding, run, progress)
            for arm in arms:
                writer.write(arm)
            judges = judges_of(load_reader(recipe.reader), sources)
            note = {
                "doses": asdict(recipe.doses),
                "reader": recipe.reader,
                "judges_saw": _seen(sources),
            }
            control = with_lexicon(evaluate(writer, arms, judges, recipe.limits, note=note))
            run.finish(
                control.save,
                page=lambda at: control_report(Control.load(at), found).write(at / "index.html"),
            )
    return Control.load(out)


def _seen(sources: Sources) -> list[str]:
    """Which replies the judges are fitted on."""
    given = {
        "self-written": sources.replies,
        "published": sources.verdicts,
        "labelled blind": sources.labelled,
    }
    return [name for name, rows in given.items() if rows]


def judges_of(reader: Model, sources: Sources) -> dict[str, Judge]:
    """The judges, fitted on replies that no arm wrote; the reader's plain ones are neutral."""
    texts = situations(sources.plain, min(N_PLAIN, len(sources.plain)))
    # a reader without a chat template is asked in the frame of the clean preset
    said = plain_replies(reader, Asking(sources.frames, sources.replies), texts, Decoding())
    events = {scenario.id for scenario in sources.events}
    unseen = [one for one in sources.labelled if one.group.rpartition("_")[0] not in events]
    return default_judges(reading(reader), sources.replies, sources.verdicts, said, unseen)


def with_lexicon(control: Control) -> Control:
    """With the third judge's labels, too."""
    table = control.replies
    plain = table.loc[table["arm"] == "unmodulated"]
    return Control(
        judge_by_lexicon(table, plain),
        control.limits,
        (*control.judges, "lexicon"),
        control.model,
        control.settings,
        control.provenance,
    )
