"""Write the pair sets in ``datasets/`` and count what the built-in models get right on them.

    python datasets/build/pair_sets.py write    # the three JSONL files, the same bytes every time
    python datasets/build/pair_sets.py count    # a Markdown table of right answers a model

Every fact, name and sentence is written here by hand. Every row is aligned in the tokens of all
`MODELS`: clean and corrupt equally long, spans at the same positions, both answers one token.
"""

import argparse
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp import load_model

MODELS = ("smollm2-135m", "gemma-3-270m")
FOLDER = Path(__file__).resolve().parent.parent
N_BATCH = 16  # rows that are judged together
N_HEAD = 16  # rows that open each file: one template, known to the models

Row = dict[str, Any]
Outcome = tuple[bool, bool, bool]  # clean right, both right, both preferred

# --- facts -------------------------------------------------------------------------------------

# countries whose undisputed capital is a single token for all MODELS; England, Scotland and Wales
# are countries of the United Kingdom, and Washington is short for Washington, D.C.
CAPITALS = {
    "Afghanistan": "Kabul",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Bulgaria": "Sofia",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "England": "London",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Jamaica": "Kingston",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "New Zealand": "Wellington",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Russia": "Moscow",
    "Scotland": "Edinburgh",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Syria": "Damascus",
    "Tunisia": "Tunis",
    "Wales": "Cardiff",
    "the Czech Republic": "Prague",
    "the Netherlands": "Amsterdam",
    "the Philippines": "Manila",
    "the United Kingdom": "London",
    "the United States": "Washington",
}

CAPITAL_TEMPLATES = {
    "plain": "The capital of {} is",
    "city-of": "The capital of {} is the city of",
    "called": "The capital city of {} is called",
    "map": "The map shows {} and its capital,",
    "flew": "We flew to {} and landed in the capital,",
    "weekend": "They spent the weekend in the capital of {},",
}

# each lies wholly in one country; the lists are by country for reading and checking
LANDMARKS = {
    "Argentina": "the Perito Moreno Glacier; the Casa Rosada",
    "Australia": "the Sydney Opera House; the Great Barrier Reef; Uluru; Bondi Beach; "
    "the Melbourne Cricket Ground; Kakadu National Park",
    "Austria": "the Vienna State Opera; Schönbrunn Palace; the Hohensalzburg Fortress",
    "Botswana": "the Okavango Delta; Chobe National Park",
    "Brazil": "Copacabana Beach; the Christ the Redeemer statue; the Maracana Stadium",
    "Bulgaria": "the Rila Monastery",
    "Cambodia": "Angkor Wat; Angkor Thom",
    "Canada": "the CN Tower; the Calgary Tower; Banff National Park; Moraine Lake",
    "Chile": "Easter Island; Torres del Paine",
    "China": "the Great Wall; the Forbidden City; Tiananmen Square; the Terracotta Army; "
    "the Three Gorges Dam; the Temple of Heaven; the Shaolin Temple",
    "Croatia": "the Plitvice Lakes; the walls of Dubrovnik",
    "Cuba": "the Bay of Pigs",
    "Denmark": "Amalienborg Palace; Kronborg Castle",
    "Ecuador": "the Galapagos Islands; Cotopaxi",
    "Egypt": "the Great Sphinx; Abu Simbel; the Valley of the Kings; the Temple of Karnak; "
    "the Luxor Temple; the Suez Canal; the Aswan Dam; the Pyramid of Djoser",
    "England": "Big Ben; Buckingham Palace; Westminster Abbey; Windsor Castle; York Minster; "
    "Canterbury Cathedral; the London Eye; the Tower of London; the White Cliffs of Dover",
    "Ethiopia": "the churches of Lalibela",
    "Finland": "Helsinki Cathedral; Suomenlinna",
    "France": "the Eiffel Tower; the Moulin Rouge; the Arc de Triomphe; the Louvre; "
    "the Palace of Versailles; the Pont du Gard; Mont-Saint-Michel",
    "Germany": "the Brandenburg Gate; the Reichstag; Cologne Cathedral; the Black Forest; "
    "Neuschwanstein Castle",
    "Greece": "the Acropolis; the Parthenon; the Corinth Canal; Mount Olympus; Mount Athos; "
    "the Palace of Knossos",
    "Guatemala": "the ruins of Tikal",
    "Hungary": "Buda Castle; Lake Balaton",
    "India": "the Taj Mahal; the Red Fort; the Mysore Palace; the Ajanta Caves; the Hawa Mahal; "
    "the Qutub Minar",
    "Indonesia": "Komodo National Park; Lake Toba",
    "Iran": "Persepolis; Golestan Palace; Mount Damavand",
    "Iraq": "the ruins of Babylon",
    "Ireland": "the Cliffs of Moher; the Ring of Kerry; the Rock of Cashel; Croke Park; "
    "the Guinness Storehouse",
    "Italy": "the Colosseum; the Leaning Tower of Pisa; the Trevi Fountain; the Roman Forum; "
    "Mount Vesuvius; Mount Etna; Lake Como; Lake Garda; the Rialto Bridge; the Ponte Vecchio; "
    "the Amalfi Coast; the Uffizi Gallery",
    "Japan": "Mount Fuji; Tokyo Tower; Osaka Castle; Himeji Castle; Nijo Castle; "
    "the Meiji Shrine; the Great Buddha of Kamakura",
    "Jordan": "the ancient city of Petra; Wadi Rum",
    "Kenya": "the Maasai Mara; Lake Nakuru; Amboseli National Park",
    "Lebanon": "the ruins of Baalbek",
    "Malaysia": "the Petronas Twin Towers; the Batu Caves",
    "Mexico": "Chichen Itza; Teotihuacan; the Copper Canyon",
    "Morocco": "the medina of Fez",
    "Myanmar": "the Shwedagon Pagoda; the temples of Bagan",
    "Namibia": "Etosha National Park",
    "Nepal": "Lumbini; Swayambhunath; the Boudhanath Stupa",
    "Norway": "the Oslo Opera House; the Geirangerfjord; the Lofoten Islands; Preikestolen; "
    "Trolltunga",
    "Pakistan": "Lahore Fort; the Badshahi Mosque",
    "Peru": "Machu Picchu; the Nazca Lines; the Inca Trail",
    "Poland": "Wawel Castle; Malbork Castle; the Wieliczka Salt Mine; the Warsaw Uprising Museum",
    "Portugal": "the Algarve coast; the Vasco da Gama Bridge",
    "Russia": "Red Square; the Kremlin; the Hermitage Museum; Lake Baikal",
    "Scotland": "Edinburgh Castle; Stirling Castle; Balmoral Castle; Loch Ness; Ben Nevis; "
    "the Isle of Skye; the Forth Bridge; the Royal Mile",
    "Serbia": "the Belgrade Fortress",
    "Singapore": "Marina Bay Sands; Changi Airport",
    "Slovenia": "Lake Bled",
    "Spain": "the Prado Museum; the Alhambra; the Sagrada Familia; the Alcazar of Seville; "
    "the Costa del Sol",
    "Sweden": "the Vasa Museum; Drottningholm Palace; Gamla Stan",
    "Switzerland": "Lake Zurich; Lake Lucerne",
    "Tanzania": "Mount Kilimanjaro; the Ngorongoro Crater",
    "Thailand": "Wat Pho; the Grand Palace of Bangkok",
    "Tunisia": "the ruins of Carthage",
    "Turkey": "the Hagia Sophia; the Galata Tower; the Topkapi Palace; Pamukkale",
    "Vietnam": "Ha Long Bay; the Cu Chi Tunnels; the Ho Chi Minh Mausoleum",
    "Wales": "Cardiff Castle; Conwy Castle; Caernarfon Castle; the Brecon Beacons",
}

LANDMARK_TEMPLATES = {
    "guide": "According to the travel guide, {} can be found in the country of",
    "went": "We went to see {}, which is in the country of",
    "holiday": "On our holiday we visited {} in the country of",
    "label": "Sight: {}. Country:",
}

# --- indirect objects --------------------------------------------------------------------------

NAMES = (
    "Alice Amy Anna Claire Diana Emily Emma Hannah Helen Jane Jessica Julia Kate Laura Lisa Lucy "
    "Maria Martha Mary Rachel Rebecca Ruth Sarah Susan "
    "Adam Andrew Brian Daniel David Eric George Henry Jack James John Kevin Luke Martin Matthew "
    "Michael Oliver Paul Peter Robert Sam Simon Thomas Tom"
)

PLACES = (
    "shop park station library school office museum beach market garden theatre hospital airport "
    "restaurant stadium bakery"
)

THINGS = "book pen map ticket camera bag hat newspaper key notebook torch photo"
SNACKS = "drink sandwich biscuit cake pear banana coffee muffin"
FOOD_OR_THINGS = f"{THINGS} {SNACKS}"
MAIL = "letter postcard parcel photo present message"
TOYS = "ball cushion towel key hat rope"

# {a} and {b} are the two names in their order, {s} the one who acts, {o} an object, {p} a place
IOI_TEMPLATES = {
    "gave": ("When {a} and {b} went to the {p}, {s} gave a {o} to", FOOD_OR_THINGS),
    "handed": ("After {a} and {b} arrived at the {p}, {s} handed a {o} to", FOOD_OR_THINGS),
    "passed": ("While {a} and {b} were waiting at the {p}, {s} passed a {o} to", FOOD_OR_THINGS),
    "offered": ("Then {a} and {b} met at the {p}, and {s} offered a {o} to", SNACKS),
    "showed": ("Yesterday {a} and {b} had lunch at the {p}, and {s} showed a {o} to", THINGS),
    "lent": ("Before {a} and {b} left the {p}, {s} lent a {o} to", THINGS),
    "sent": ("A week after {a} and {b} had met at the {p}, {s} sent a {o} to", MAIL),
    "tossed": ("While {a} and {b} were having fun at the {p}, {s} tossed a {o} to", TOYS),
    "bought": ("When {a} and {b} met for lunch at the {p}, {s} bought a {o} for", SNACKS),
    "gave-back": ("After {a} and {b} had an argument at the {p}, {s} gave a {o} back to", THINGS),
    "only-two": ("At the {p} there were only {a} and {b} left, so {s} gave a {o} to", THINGS),
    "whispered": ("When {a} and {b} walked past the {p}, {s} whispered a secret to", THINGS),
}

# --- which rows open each file -----------------------------------------------------------------

# a template, and subjects that both MODELS get right in it (counted on 2026-11-23); each is the
# corrupt counterpart of the one before it
CAPITAL_HEAD = (
    "map",
    "France; Italy; Germany; Japan; Russia; Egypt; Greece; Ireland; Austria; Portugal; Norway; "
    "Cuba; Sweden; Belgium; Finland; Denmark",
)
LANDMARK_HEAD = (
    "guide",
    "Mount Fuji; Machu Picchu; Loch Ness; Angkor Wat; Lake Como; Bondi Beach; Wadi Rum; "
    "Lake Bled; Osaka Castle; Buda Castle; Persepolis; Mount Olympus; Lahore Fort; Angkor Thom; "
    "Lumbini; Wat Pho",
)
IOI_HEAD = "handed-abba"  # both MODELS get all of it right


# --- tokens ------------------------------------------------------------------------------------


def token_positions(tokenizer: Any, text: str, start: int, end: int) -> tuple[int, ...]:
    """Positions of the tokens that hold a visible character of ``text[start:end]``."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return tuple(
        i for i, (lo, hi) in enumerate(offsets) if text[max(lo, start) : min(hi, end)].strip()
    )


def signature(tokenizers: Iterable[Any], text: str, span: str) -> tuple[Any, ...]:
    """For each tokenizer, the length of `text` and the positions of `span` in it."""
    start = text.index(span)
    where = start, start + len(span)
    return tuple((len(t(text)["input_ids"]), token_positions(t, text, *where)) for t in tokenizers)


def answer_token(tokenizer: Any, prompt: str, answer: str) -> int:
    """The single token by which `answer` follows `prompt`."""
    before, after = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {answer}")["input_ids"]
    if after[:-1] != before:
        raise ValueError(f"{answer!r} is not one token after {prompt!r}")
    return after[-1]


def check_row(tokenizer: Any, row: Row) -> None:
    """Raise unless `row` is aligned in the tokens of `tokenizer`."""
    clean, corrupt = row["clean"], row["corrupt"]
    if len(tokenizer(clean)["input_ids"]) != len(tokenizer(corrupt)["input_ids"]):
        raise ValueError(f"{row['id']}: the prompts differ in length")
    answers = {
        answer_token(tokenizer, prompt, row[key])
        for prompt in (clean, corrupt)
        for key in ("answer", "wrong_answer")
    }
    if len(answers) != 2:
        raise ValueError(f"{row['id']}: the answers are not two tokens")
    for name, (first, second) in row["spans"].items():
        places = [
            token_positions(tokenizer, text, *_range(text, span))
            for text, span in ((clean, first), (corrupt, second))
        ]
        if not places[0] or places[0] != places[1]:
            raise ValueError(f"{row['id']}: span {name!r} is not aligned")


def _range(text: str, span: str | list[int]) -> tuple[int, int]:
    if not isinstance(span, str):
        return span[0], span[1]
    if text.count(span) != 1:
        raise ValueError(f"{span!r} does not occur once in {text!r}")
    return text.index(span), text.index(span) + len(span)


# --- rows of the two fact sets -----------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """A subject, as it stands in a sentence, and the answer that it calls for."""

    phrase: str
    answer: str

    @property
    def subject(self) -> str:
        """The phrase without its article."""
        return self.phrase.removeprefix("the ")


def capitals() -> list[Fact]:
    """The countries with their capitals."""
    return [Fact(country, capital) for country, capital in CAPITALS.items()]


def landmarks() -> list[Fact]:
    """The landmarks with their countries."""
    return [Fact(name, country) for country, all_ in LANDMARKS.items() for name in all_.split("; ")]


def fact_rows(
    facts: Sequence[Fact],
    templates: Mapping[str, str],
    head: tuple[str, str],
    tokenizers: Sequence[Any],
) -> list[Row]:
    """Pair every fact with another of equal token length, once in each template.

    Within a template each paired subject is clean once and corrupt once. The subjects named in
    `head` are paired in a ring and come first; the other rows are shuffled.
    """
    by_subject = {fact.subject: fact for fact in facts}
    ring = [by_subject[subject] for subject in head[1].split("; ")]
    first = [
        _fact_row(head[0], templates[head[0]], clean, corrupt)
        for clean, corrupt in zip(ring, ring[1:] + ring[:1], strict=True)
    ]
    rest = []
    for template, pattern in templates.items():
        groups = defaultdict(list)
        for fact in facts:
            if template != head[0] or fact not in ring:
                key = signature(tokenizers, pattern.format(fact.phrase), fact.subject)
                groups[key].append(fact)
        rng = random.Random(template)
        pairs = [pair for group in groups.values() for pair in partners(group, rng)]
        rest += [_fact_row(template, pattern, *pair) for pair in pairs]
    random.Random(0).shuffle(rest)
    return first + rest


def partners(group: Sequence[Fact], rng: random.Random) -> Iterator[tuple[Fact, Fact]]:
    """Give every fact of a group a counterpart with another answer, each used once.

    Where one answer holds more than half of the group, its surplus facts stay unpaired.
    """
    facts = rng.sample(group, len(group))
    while facts:
        answer, most = Counter(fact.answer for fact in facts).most_common(1)[0]
        if 2 * most <= len(facts):
            break
        facts.remove(next(fact for fact in facts if fact.answer == answer))
    else:
        return
    order = rng.sample(sorted({f.answer for f in facts}), len({f.answer for f in facts}))
    facts.sort(key=lambda fact: order.index(fact.answer))  # equal answers side by side
    for i, fact in enumerate(facts):
        yield fact, facts[(i + most) % len(facts)]  # a shift that leaves each run of answers


def _fact_row(template: str, pattern: str, clean: Fact, corrupt: Fact) -> Row:
    return {
        "clean": pattern.format(clean.phrase),
        "corrupt": pattern.format(corrupt.phrase),
        "answer": clean.answer,
        "wrong_answer": corrupt.answer,
        "spans": {"subject": [clean.subject, corrupt.subject]},
        "template": template,
    }


# --- rows of the indirect objects --------------------------------------------------------------


def ioi_rows(head: str) -> list[Row]:
    """Two orders of every template, with every name once in each; corrupt flips who acts.

    In the first order (abba) the indirect object is named first, in the second (baba) the
    subject is; whoever is indirect object in a template's abba rows is subject in its baba rows.
    Rows of the template `head` come first; the others are shuffled.
    """
    rows = {}
    for template in IOI_TEMPLATES:
        rng = random.Random(template)
        names = NAMES.split()
        rng.shuffle(names)
        half = len(names) // 2
        one, other = names[:half], names[half:]
        swapped = rng.sample(one, half)
        rows[f"{template}-abba"] = [
            _ioi_row(template, io, s, True, rng) for io, s in zip(one, other, strict=True)
        ]
        rows[f"{template}-baba"] = [
            _ioi_row(template, io, s, False, rng) for io, s in zip(other, swapped, strict=True)
        ]
    first = rows[head][:N_HEAD]
    rest = [row for block in rows.values() for row in block if row not in first]
    random.Random(0).shuffle(rest)
    return first + rest


def _ioi_row(template: str, io: str, s: str, io_first: bool, rng: random.Random) -> Row:
    pattern, objects = IOI_TEMPLATES[template]
    a, b = (io, s) if io_first else (s, io)
    words = {"a": a, "b": b, "p": rng.choice(PLACES.split()), "o": rng.choice(objects.split())}
    clean, corrupt = (pattern.format(s=who, **words) for who in (s, io))
    in_clean, in_corrupt = _name_ranges(clean, a, b), _name_ranges(corrupt, a, b)
    roles = ("io", "s1", "s2") if io_first else ("s1", "io", "s2")
    return {
        "clean": clean,
        "corrupt": corrupt,
        "answer": io,
        "wrong_answer": s,
        "spans": dict(zip(roles, map(list, zip(in_clean, in_corrupt, strict=True)), strict=True)),
        "template": f"{template}-{'abba' if io_first else 'baba'}",
    }


def _name_ranges(text: str, a: str, b: str) -> list[list[int]]:
    """Character ranges of the first name, the second name and the one that is repeated."""
    first, second = text.index(f" {a} ") + 1, text.index(f" {b} ") + 1
    third, repeated = max((text.rindex(f" {name} ") + 1, name) for name in (a, b))
    starts = ((first, a), (second, b), (third, repeated))
    return [[start, start + len(name)] for start, name in starts]


# --- write -------------------------------------------------------------------------------------


def write() -> None:
    """Build, check and write the three files."""
    tokenizers = [load_model(name, device="cpu").tokenizer for name in MODELS]
    sets = {
        "country_capitals": (
            "capital",
            fact_rows(capitals(), CAPITAL_TEMPLATES, CAPITAL_HEAD, tokenizers),
        ),
        "landmark_countries": (
            "landmark",
            fact_rows(landmarks(), LANDMARK_TEMPLATES, LANDMARK_HEAD, tokenizers),
        ),
        "ioi": ("ioi", ioi_rows(IOI_HEAD)),
    }
    for name, (prefix, rows) in sets.items():
        numbered = [{"id": f"{prefix}-{n:04}", **row} for n, row in enumerate(rows, 1)]
        if len({(row["clean"], row["corrupt"]) for row in numbered}) != len(numbered):
            raise ValueError(f"{name} holds a row twice")
        for row in numbered:
            for tokenizer in tokenizers:
                check_row(tokenizer, row)
        lines = [json.dumps(row, ensure_ascii=False) for row in numbered]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}.jsonl: {len(lines)} rows")


# --- count -------------------------------------------------------------------------------------


def count() -> None:
    """Print how many rows each model gets right, in fp32 on the CPU: a file, then a template."""
    files = sorted(FOLDER.glob("*.jsonl"))
    sets = {
        file.stem: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in files
    }
    outcomes = {}
    for name in MODELS:
        model = load_model(name, device="cpu", dtype="float32")
        outcomes |= {(set_, name): judge(model, rows) for set_, rows in sets.items()}
    print_sets(outcomes)
    print_templates(sets, outcomes)


def print_sets(outcomes: Mapping[tuple[str, str], Sequence[Outcome]]) -> None:
    """Print a Markdown table with a row a set and model."""
    print(f"| set | model | n | clean right | both right | both preferred | first {N_HEAD} |")
    print("|---|---|---|---|---|---|---|")
    for (set_, model), judged in sorted(outcomes.items()):
        cells = [share(sum(column), len(judged)) for column in zip(*judged, strict=True)]
        head = sum(both for _, both, _ in judged[:N_HEAD])
        print(f"| {set_} | {model} | {len(judged)} | {' | '.join(cells)} | {head} |")


def print_templates(
    sets: Mapping[str, Sequence[Row]], outcomes: Mapping[tuple[str, str], Sequence[Outcome]]
) -> None:
    """Print a Markdown table of the rows with clean and with both prompts right, a template."""
    columns = " | ".join(f"{model}, {which}" for model in MODELS for which in ("clean", "both"))
    print(f"\n| set | template | n | {columns} |")
    print("|---" * (3 + 2 * len(MODELS)) + "|")
    for set_, rows in sets.items():
        for template in sorted({row["template"] for row in rows}):
            at = [i for i, row in enumerate(rows) if row["template"] == template]
            right = [
                sum(outcomes[set_, model][i][k] for i in at) for model in MODELS for k in (0, 1)
            ]
            print(f"| {set_} | {template} | {len(at)} | {' | '.join(map(str, right))} |")


def judge(model: Any, rows: Sequence[Row]) -> list[Outcome]:
    """Judge every row: clean's top token right, both prompts' right, both right ones preferred.

    Rows of one token length run together, so nothing is padded.
    """
    lengths = defaultdict(list)
    for i, row in enumerate(rows):
        lengths[len(model.tokenizer(row["clean"])["input_ids"])].append(i)
    outcomes = {}
    for of_length in lengths.values():
        for start in range(0, len(of_length), N_BATCH):
            batch = of_length[start : start + N_BATCH]
            judged = _judge_batch(model, [rows[i] for i in batch])
            outcomes.update(zip(batch, judged, strict=True))
    return [outcomes[i] for i in range(len(rows))]


@torch.no_grad()
def _judge_batch(model: Any, rows: Sequence[Row]) -> list[Outcome]:
    prompts = [row[key] for row in rows for key in ("clean", "corrupt")]
    ids = torch.tensor(model.tokenizer(prompts)["input_ids"])
    logits = model.hf(ids, logits_to_keep=1).logits[:, -1]
    answers = torch.tensor(
        [
            [
                answer_token(model.tokenizer, row["clean"], row[k])
                for k in ("answer", "wrong_answer")
            ]
            for row in rows
        ]
    )
    hits = (logits.argmax(-1) == answers.flatten()).view(-1, 2)
    both = logits.gather(1, answers.repeat_interleave(2, 0)).view(-1, 2, 2)
    gap = both[..., 0] - both[..., 1]
    preferred = (gap[:, 0] > 0) & (gap[:, 1] < 0)
    return list(zip(hits[:, 0].tolist(), hits.all(1).tolist(), preferred.tolist(), strict=True))


def share(k: int, n: int) -> str:
    """``k (percentage, Wilson 95 % interval)``."""
    low, high = wilson(k, n)
    return f"{k} ({k / n:.1%}, {low:.1%} to {high:.1%})"


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of the proportion ``k / n``."""
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half


def main() -> None:
    """Run the command that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("write", "count"))
    {"write": write, "count": count}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
