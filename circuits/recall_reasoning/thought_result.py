"""`Thought`: how often final answers follow an intervention upon the chain before them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from circuits.recall_reasoning import figures
from circuits.recall_reasoning.settings import ThoughtSettings
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.statistics import bootstrap_mean

CONDITIONS = {
    "edited bridge": "the first sentence that names the bridge names another country, whose "
    "capital is the new answer",
    "answer not named": "of these, where the old answer does not stand before what is rewritten",
    "irrelevant edit": "as many words changed in a sentence that names neither bridge nor capital",
    "chain removed": "the answer at once",
    "other chain": "the chain of another question, whose answer is the new one",
}
"""What was done to the chain."""
OUTCOMES = ("follows", "keeps", "neither", "no answer")
EXAMPLES = 3


@dataclass(frozen=True)
class Thought(Result):
    """What `thought` measured.

    Attributes:
        chains: a row per question: landmark, bridge, answer, the greedy reply, the final answer
            ``said``, and why its chain was not intervened upon (``left_out``; empty where it was).
        trials: a row per intervention upon a chain: its condition and sentence (from 1; 0 for all),
            the old answer and the new one that would follow, the text ``given``, which ends in the
            sentence as it was ``changed``, the ``rest`` that the model wrote, and the answer
            ``said``; of resampled sentences, whether they came out the ``same``, and the seed.
        missing: a row per question and condition that its chain has no trial of, and why.
        form: ``chat`` or ``plain``.
    """

    KIND: ClassVar[str] = "thought"
    chains: pd.DataFrame = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    missing: pd.DataFrame = field(repr=False)
    settings: ThoughtSettings
    form: str
    model: str
    seconds: float

    @property
    def left_out(self) -> Mapping[str, int]:
        """Reason -> chains without any intervention, or without the one that it begins with."""
        reasons = [one for one in self.chains["left_out"] if one]
        reasons += (self.missing["condition"] + ": " + self.missing["reason"]).tolist()
        return dict(Counter(reasons).most_common())

    @property
    def used(self) -> int:
        """How many chains were intervened upon."""
        return self.chains["left_out"].tolist().count("")

    @property
    def rates(self) -> pd.DataFrame:
        """Per condition and outcome the fraction of trials, with intervals over bridges."""
        rows: list[dict[str, Any]] = []
        for name in CONDITIONS:
            own: Any = self.trials[self.trials["condition"] == name]
            if name == "answer not named":
                own = self.trials[self.trials["condition"] == "edited bridge"]
                own = own[~own["answer_named"]]
            for outcome in OUTCOMES if len(own) else ():
                hit = (self.outcomes[own.index] == outcome).to_numpy(float)
                rate = bootstrap_mean(hit, self.settings.seed, clusters=own["bridge"].tolist())
                row = {"condition": name, "outcome": outcome} | rate.columns("rate")
                rows.append(row | {"n": len(own), "bridges": own["bridge"].nunique()})
        return pd.DataFrame(rows)

    @property
    def outcomes(self) -> pd.Series:
        """Of each trial whether the answer follows the new one, keeps the old one, or neither."""
        found = pd.Series("neither", index=self.trials.index)
        found[self.trials["said"] == self.trials["old"]] = "keeps"
        found[(self.trials["said"] == self.trials["new"]) & (self.trials["new"] != "")] = "follows"
        found[self.trials["said"].isna()] = "no answer"
        return found

    @property
    def by_sentence(self) -> pd.DataFrame:
        """Per position of a resampled sentence how often the answer is another, or lacks."""
        drawn: Any = self.trials[self.trials["condition"] == "resampled"]
        rows: list[dict[str, Any]] = []
        for sentence, own in drawn.groupby("sentence"):
            row: dict[str, Any] = {"sentence": sentence}
            outcomes, clusters = self.outcomes[own.index], own["bridge"].tolist()
            for name, hit in (("changed", "neither"), ("no_answer", "no answer")):
                values = (outcomes == hit).to_numpy(float)
                row |= bootstrap_mean(values, self.settings.seed, clusters=clusters).columns(name)
            row |= {"same_sentence": float(own["same"].mean())}
            rows.append(row | {"n": len(own), "bridges": own["bridge"].nunique()})
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "model": self.model,
            "form": self.form,
            "settings": self.settings.model_dump(mode="json"),
            "asked": len(self.chains),
            "used": self.used,
            "left_out": dict(self.left_out),
            "rates": self.rates.to_dict("records"),
            "by_sentence": self.by_sentence.to_dict("records"),
            "seconds": round(self.seconds, 1),
        }

    def __repr__(self) -> str:
        n = len(self.chains)
        return f"Thought({self.model}, {self.form}: {self.used} of {n} chains used)"

    def plot(self) -> go.Figure:
        """What final answers do, per condition."""
        title = f"Final answers after interventions upon the chain, {self.model}"
        return figures.plot_bars(self.rates, "condition", "rate", "outcome", title)

    def report(self) -> Report:
        """How far answers follow the chain, and some chains."""
        rates = self.rates.set_index(["condition", "outcome"])["rate"]
        follow, keep = (rates[("edited bridge", one)] for one in ("follows", "keeps"))
        edited: Any = self.trials[self.trials["condition"] == "edited bridge"].head(EXAMPLES)
        replies = [self.chains.loc[i, "reply"] for i in edited["question"]]
        both = zip(edited["given"], edited["changed"], strict=True)
        before = [given.removesuffix(changed) for given, changed in both]
        shown = edited[["changed", "rest", "said", "old", "new"]]
        shown.insert(0, "before", before)
        shown.insert(0, "reply", replies)
        names = {"changed": "edited sentence", "rest": "written behind"}
        says = (
            "Fraction of final answers that become the new one, stay the old one, or are neither, "
            "per intervention, with 95 % intervals over bridge entities."
        )
        return Report(
            title=f"Chains of thought of {self.model} intervened upon",
            lead=f"{self.used} of {len(self.chains)} chains are used. Where another country is "
            f"written in place of the bridge, {follow:.0%} of final answers become its capital and "
            f"{keep:.0%} stay the old one.",
            sections=[
                Section(
                    "Final answers",
                    [Figure("Outcomes", says, self.plot()), Table("Rates", self.rates)],
                ),
                Section("Sentences drawn again", [Table("By position", self.by_sentence)]),
                Section("Edited chains", [Table("Before and after", shown, names=names)]),
            ],
            method=(
                f"Greedy replies ({self.form}) of at most {self.settings.new_tokens} tokens, after "
                f"{self.settings.demonstrations} demonstrations. Only chains that end in the right "
                "answer and name the bridge are used; everything behind the changed sentence is "
                "written again. A chain without a place for an intervention does not count in "
                "the n of that intervention.",
                "; ".join(f"{name}: {what}" for name, what in CONDITIONS.items()) + ".",
                f"Settings: {cell_text(self.settings.model_dump(mode='json'))}. "
                f"{self.seconds:.0f} s.",
            ),
            excluded=excluded_counts(self.left_out),
            provenance=self.provenance,
        )
