"""`interp emotion vectors`, `map`, `tokens`, `choices`: vectors of any set of emotions."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import Into, IntoFolder, OnModel, names_in, numbers
from circuits.cli.output import print_run, print_table, stdout
from interp.errors import PlanError

app = typer.Typer()

RUN = "runs/emotions"
RunArgument = Annotated[Path, typer.Argument(help="Folder of `interp emotion vectors`.")]
NamesOption = Annotated[
    str, typer.Option("--emotions", help="Names of emotions in the run, with commas.")
]


@command(
    app,
    f"interp emotion vectors --model smollm2-135m --words broad --out {RUN}",
    "interp emotion vectors --model qwen2.5-coder-0.5b --words six --generate 8 --out runs/stories",
)
def vectors(
    on: OnModel,
    into: IntoFolder,
    words: Annotated[
        str, typer.Option(help="Emotions: six, goemotions, broad, or a file of emotion, word.")
    ] = "goemotions",
    texts: Annotated[
        str | None, typer.Option(help="Read the texts of this file, with emotion and text.")
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(help="Read so many stories per emotion, which the chat model writes itself."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Read so many sentences with the word; by default 12.")
    ] = None,
) -> Record:
    """Make a vector for every emotion of a list, and read vignettes without emotion words."""
    from circuits.affect.emotion_vectors import emotion_vectors
    from circuits.affect.emotion_words import EvokingTexts, load_words
    from circuits.cli.output import neutral_text
    from circuits.emotion.texts import load_vignettes

    listed = load_words(words)
    if sum(one is not None for one in (texts, generate, frames)) > 1:
        raise PlanError("give one of --texts, --generate and --frames: where the texts come from.")
    if texts is not None:
        source = EvokingTexts.given(listed, texts)
    elif generate is not None:
        source = EvokingTexts.stories(listed, generate)
    else:
        source = EvokingTexts.framed(listed, 12 if frames is None else frames)
    read = str(neutral_text("neutral_text")), load_vignettes("emotion_vignettes")
    found = emotion_vectors(on.load(), source, *read, into.out, force=into.force)
    tables: Any = (found.layers, found.readings)
    stable, read_here = (one[one["layer"] == found.layer] for one in tables)
    rows = {"layers": stable.to_dict("records"), "readings": read_here.to_dict("records")}
    yield lambda: {"run": str(into.out)} | found.summary() | rows
    print_table(found.layers, f"{len(found.emotions)} emotions; layer {found.layer} was chosen")
    print_table(
        read_here.drop(columns=["layer", "clusters"]),
        "vignettes without an emotion word, at that layer",
    )
    left = ", ".join(f"{n}: {reason}" for reason, n in found.left_out.items() if n)
    without = ", ".join(found.without) or "none"
    says = f"texts left out: {left or 'none'}; emotions without a vector: {without}"
    stdout.print(f"[dim]{escape(says)}[/dim]", highlight=False)
    print_run(into.out)


@command(app, f"interp emotion map {RUN} --out runs/map", name="map")
def plane(
    run: RunArgument,
    into: Into,
    norms: Annotated[
        str, typer.Option(help="Ratings: the shipped ones, or a file of word, valence, arousal.")
    ] = "emotion_norms",
) -> Record:
    """Put the emotions on a plane, and compare it with people's valence and arousal ratings."""
    from circuits.affect.emotion_map import EmotionMap, emotion_map
    from circuits.affect.emotion_vectors import EmotionVectors
    from circuits.affect.emotion_words import load_norms
    from interp.results.report import cell_text
    from interp.results.run_folder import fingerprint, in_one_piece

    ratings, found = load_norms(norms), EmotionVectors.load(run)
    key = {
        "norms": fingerprint(ratings.reset_index().to_dict("list")),
        "vectors": found.provenance["run"],
    }
    made = lambda: emotion_map(found, ratings)  # noqa: E731 (short)
    done = in_one_piece(into.out, "emotion map", key, made, EmotionMap, into.force)
    yield lambda: {"run": into.run} | done.summary()
    shown = done.chosen.drop(columns=["null", "variance"])  # the page has all
    print_table(shown, f"agreement with ratings; layer {done.layer} was chosen without them")
    stdout.print(f"[dim]{cell_text(done.left_out)}[/dim]", highlight=False)
    print_run(into.out)


@command(
    app,
    f"interp emotion tokens {RUN} --model smollm2-135m --chat chat.json --emotions sadness,calm",
)
def tokens(
    run: RunArgument,
    on: OnModel,
    emotions: NamesOption,
    into: Into,
    text: Annotated[str | None, typer.Option(help="Text file to read.")] = None,
    chat: Annotated[
        str | None, typer.Option(help="JSON file with chat messages, each with role and content.")
    ] = None,
) -> Record:
    """Show each token's state along emotion vectors, in the user's turns and around replies."""
    from circuits.affect.emotion_vectors import EmotionVectors
    from circuits.affect.token_projections import TokenProjections, token_projections
    from interp.data.chat import Conversation
    from interp.data.records import read_rows, read_text
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    if (text is None) == (chat is None):
        raise PlanError("give one of --text and --chat: what is to be read.")
    given = Conversation(read_rows(chat, "chat messages")) if chat else read_text(text or "")
    found, names = EmotionVectors.load(run), names_in(emotions)
    found.rows(names)
    model = on.load()
    key = {"vectors": found.provenance["run"], "emotions": names, "read": fingerprint(given)}
    key |= identity(model)
    made = lambda: token_projections(model, found, given, names)  # noqa: E731 (short)
    done = in_one_piece(into.out, "emotion tokens", key, made, TokenProjections, into.force)
    yield lambda: {"run": into.run} | done.summary()
    rows = done.parts.melt(["turn", "speaker", "part", "tokens"], var_name="emotion")
    rows = rows.sort_values("turn", kind="stable")
    print_table(rows, f"layer {done.layer}, standard deviations over neutral text")
    print_run(into.out)


@command(
    app,
    f"interp emotion choices {RUN} --model smollm2-135m --emotions sadness,calm --out runs/choices",
)
def choices(
    run: RunArgument,
    on: OnModel,
    emotions: NamesOption,
    into: Into,
    questions: Annotated[
        str, typer.Option(help="Questions with two answers: the shipped ones, or a file.")
    ] = "emotion_choices",
    dose: Annotated[
        float, typer.Option(help="Part of the stream's norm that is added in each layer.")
    ] = 0.1,
    layers: Annotated[
        str | None, typer.Option(help="Layers, such as 8-11; by default that of the vectors.")
    ] = None,
    n_random: Annotated[int, typer.Option(help="Number of random directions, at least 10.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of these directions.")] = 0,
) -> Record:
    """Measure how steering with emotion vectors shifts choices, beside random directions."""
    from circuits.affect.emotion_choices import (
        EmotionChoices,
        emotion_choices,
        load_choices,
        refuse_unusable,
    )
    from circuits.affect.emotion_vectors import EmotionVectors
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    refuse_unusable(n_random, dose)  # now, before a model is loaded
    asked, found, names = load_choices(questions), EmotionVectors.load(run), names_in(emotions)
    found.rows(names)
    options: dict[str, Any] = {"dose": dose, "layers": numbers("--layers", layers)}
    options |= {"n_random": n_random, "seed": seed}
    model = on.load()
    key = options | {"emotions": names, "questions": fingerprint(asked)}
    key |= {"vectors": found.provenance["run"]} | identity(model)
    made = lambda: emotion_choices(model, found, asked, names, **options)  # noqa: E731 (short)
    done = in_one_piece(into.out, "emotion choices", key, made, EmotionChoices, into.force)
    yield lambda: {"run": into.run} | done.summary()
    shown = done.table.drop(columns=["random_low", "random_high", "questions"])  # the page has all
    print_table(shown, "shift of the log-odds of the first answer, in nats")
    print_run(into.out, done.excluded)
