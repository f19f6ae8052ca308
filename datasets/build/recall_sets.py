"""Write the facts and the puzzles of `circuits.recall_reasoning` into ``datasets/``.

    python datasets/build/recall_sets.py     # the two JSONL files, the same bytes every time

Every fact and word is written here, or in `pair_sets`, by hand.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pair_sets import LANDMARKS

FOLDER = Path(__file__).resolve().parent.parent

# country; capital; its most common language; continent
COUNTRIES = """
Afghanistan; Kabul; Pashto; Asia
Albania; Tirana; Albanian; Europe
Algeria; Algiers; Arabic; Africa
Angola; Luanda; Portuguese; Africa
Argentina; Buenos Aires; Spanish; South America
Armenia; Yerevan; Armenian; Asia
Australia; Canberra; English; Oceania
Austria; Vienna; German; Europe
Azerbaijan; Baku; Azerbaijani; Asia
Bahrain; Manama; Arabic; Asia
Bangladesh; Dhaka; Bengali; Asia
Belarus; Minsk; Russian; Europe
Bolivia; Sucre; Spanish; South America
Bosnia; Sarajevo; Bosnian; Europe
Brazil; Brasilia; Portuguese; South America
Bulgaria; Sofia; Bulgarian; Europe
Cambodia; Phnom Penh; Khmer; Asia
Canada; Ottawa; English; North America
Chile; Santiago; Spanish; South America
China; Beijing; Chinese; Asia
Colombia; Bogota; Spanish; South America
Croatia; Zagreb; Croatian; Europe
Cuba; Havana; Spanish; North America
Cyprus; Nicosia; Greek; Europe
Denmark; Copenhagen; Danish; Europe
Ecuador; Quito; Spanish; South America
Egypt; Cairo; Arabic; Africa
England; London; English; Europe
Estonia; Tallinn; Estonian; Europe
Ethiopia; Addis Ababa; Amharic; Africa
Finland; Helsinki; Finnish; Europe
France; Paris; French; Europe
Georgia; Tbilisi; Georgian; Asia
Germany; Berlin; German; Europe
Ghana; Accra; English; Africa
Greece; Athens; Greek; Europe
Guatemala; Guatemala City; Spanish; North America
Haiti; Port-au-Prince; French; North America
Honduras; Tegucigalpa; Spanish; North America
Hungary; Budapest; Hungarian; Europe
Iceland; Reykjavik; Icelandic; Europe
India; New Delhi; Hindi; Asia
Indonesia; Jakarta; Indonesian; Asia
Iran; Tehran; Persian; Asia
Iraq; Baghdad; Arabic; Asia
Ireland; Dublin; English; Europe
Italy; Rome; Italian; Europe
Jamaica; Kingston; English; North America
Japan; Tokyo; Japanese; Asia
Jordan; Amman; Arabic; Asia
Kazakhstan; Astana; Kazakh; Asia
Kenya; Nairobi; Swahili; Africa
Kuwait; Kuwait City; Arabic; Asia
Laos; Vientiane; Lao; Asia
Latvia; Riga; Latvian; Europe
Lebanon; Beirut; Arabic; Asia
Libya; Tripoli; Arabic; Africa
Lithuania; Vilnius; Lithuanian; Europe
Malaysia; Kuala Lumpur; Malay; Asia
Mali; Bamako; French; Africa
Malta; Valletta; Maltese; Europe
Mexico; Mexico City; Spanish; North America
Mongolia; Ulaanbaatar; Mongolian; Asia
Morocco; Rabat; Arabic; Africa
Mozambique; Maputo; Portuguese; Africa
Nepal; Kathmandu; Nepali; Asia
Nicaragua; Managua; Spanish; North America
Nigeria; Abuja; English; Africa
Norway; Oslo; Norwegian; Europe
Oman; Muscat; Arabic; Asia
Pakistan; Islamabad; Urdu; Asia
Paraguay; Asuncion; Spanish; South America
Peru; Lima; Spanish; South America
Poland; Warsaw; Polish; Europe
Portugal; Lisbon; Portuguese; Europe
Qatar; Doha; Arabic; Asia
Romania; Bucharest; Romanian; Europe
Russia; Moscow; Russian; Europe
Rwanda; Kigali; French; Africa
Scotland; Edinburgh; English; Europe
Senegal; Dakar; French; Africa
Serbia; Belgrade; Serbian; Europe
Slovakia; Bratislava; Slovak; Europe
Slovenia; Ljubljana; Slovenian; Europe
Somalia; Mogadishu; Somali; Africa
South Korea; Seoul; Korean; Asia
Spain; Madrid; Spanish; Europe
Sudan; Khartoum; Arabic; Africa
Sweden; Stockholm; Swedish; Europe
Switzerland; Bern; German; Europe
Syria; Damascus; Arabic; Asia
Tanzania; Dodoma; Swahili; Africa
Thailand; Bangkok; Thai; Asia
Tunisia; Tunis; Arabic; Africa
Turkey; Ankara; Turkish; Asia
Uganda; Kampala; English; Africa
Ukraine; Kyiv; Ukrainian; Europe
Uruguay; Montevideo; Spanish; South America
Uzbekistan; Tashkent; Uzbek; Asia
Venezuela; Caracas; Spanish; South America
Vietnam; Hanoi; Vietnamese; Asia
Wales; Cardiff; English; Europe
Yemen; Sanaa; Arabic; Asia
Zambia; Lusaka; English; Africa
Zimbabwe; Harare; English; Africa
"""

# --- puzzles -----------------------------------------------------------------------------------

# one token each, with a leading space, for the tokenizers of both built-in models
SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ta",
    "ru",
    "no",
    "sa",
    "pe",
    "ti",
    "do",
    "fa",
    "mo",
    "la",
    "si",
    "ra",
    "de",
    "na",
    "to",
    "ha",
    "so",
]
NOUNS = ["dog", "house", "king", "boat", "tree", "bird", "stone"]
ADJECTIVES = ["red", "big", "old", "new", "green", "small"]
N_PUZZLES = 40
"""Lexicons of each rule; each gives one puzzle in recall and one in reasoning form."""

Row = dict[str, Any]


def order(rng: random.Random) -> Iterator[Row]:
    """Does the adjective follow its noun? The answer is the first word of the phrase."""
    (n1, n2), (a1, a2) = rng.sample(NOUNS, 2), rng.sample(ADJECTIVES, 2)
    word = dict(zip((n1, n2, a1, a2), rng.sample(SYLLABLES, 4), strict=True))
    first = rng.random() < 0.5  # the noun comes first
    seen = [(a1, n1), (a2, n2), (a2, n1)]
    rng.shuffle(seen)

    def phrase(pair: tuple[str, str], noun_first: bool) -> str:
        adjective, noun = pair
        said = (word[noun], word[adjective]) if noun_first else (word[adjective], word[noun])
        return f"{adjective} {noun} is {' '.join(said)}."

    listed = [f"{x} is {word[x]}." for x in rng.sample((n1, n2, a1, a2), 4)]
    for form, (adjective, noun) in (("recall", (a2, n2)), ("reasoning", (a1, n2))):
        texts = [
            " ".join([*listed, *(phrase(p, f) for p in seen), f"{adjective} {noun} is"])
            for f in (first, not first)
        ]
        answers = [word[noun if f else adjective] for f in (first, not first)]
        yield {"form": form, "texts": texts, "answers": answers}


def possession(rng: random.Random) -> Iterator[Row]:
    """Does the owner come first? The answer is the first word after the particle."""
    owners, things = rng.sample(NOUNS, 2), rng.sample(NOUNS, 4)
    things = [t for t in things if t not in owners][:2]
    word = dict(zip((*owners, *things), rng.sample(SYLLABLES, 4), strict=True))
    particle = rng.choice([s for s in SYLLABLES if s not in word.values()])
    first = rng.random() < 0.5  # the owner comes first
    seen = [(owners[0], things[0]), (owners[1], things[1]), (owners[1], things[0])]
    rng.shuffle(seen)

    def phrase(pair: tuple[str, str], owner_first: bool) -> str:
        said = [word[x] for x in (pair if owner_first else pair[::-1])]
        return f"the {pair[1]} of the {pair[0]} is {particle} {' '.join(said)}."

    listed = [f"{x} is {word[x]}." for x in rng.sample((*owners, *things), 4)]
    for form, pair in (("recall", (owners[1], things[1])), ("reasoning", (owners[0], things[1]))):
        asked = f"the {pair[1]} of the {pair[0]} is {particle}"
        texts = [
            " ".join([*listed, *(phrase(p, f) for p in seen), asked]) for f in (first, not first)
        ]
        answers = [word[pair[0] if f else pair[1]] for f in (first, not first)]
        yield {"form": form, "texts": texts, "answers": answers}


def agreement(rng: random.Random) -> Iterator[Row]:
    """Nouns of two classes, each with its own particle at the phrase's end: the answer."""
    nouns, adjectives = rng.sample(NOUNS, 2), rng.sample(ADJECTIVES, 2)
    drawn = rng.sample(SYLLABLES, 6)
    word = dict(zip((*nouns, *adjectives), drawn[:4], strict=True))
    particles = drawn[4:]
    seen = [(adjectives[0], nouns[0]), (adjectives[1], nouns[1]), (adjectives[1], nouns[0])]
    rng.shuffle(seen)
    listed = [f"{x} is {word[x]}." for x in rng.sample((*nouns, *adjectives), 4)]

    def phrase(pair: tuple[str, str], of: dict[str, str], end: str) -> str:
        return f"{pair[0]} {pair[1]} is {word[pair[0]]} {word[pair[1]]}{end and f' {of[pair[1]]}.'}"

    for form, pair in (
        ("recall", (adjectives[1], nouns[1])),
        ("reasoning", (adjectives[0], nouns[1])),
    ):
        classes = [dict(zip(nouns, two, strict=True)) for two in (particles, particles[::-1])]
        texts = [
            " ".join([*listed, *(phrase(p, of, "end") for p in seen), phrase(pair, of, "")])
            for of in classes
        ]
        yield {"form": form, "texts": texts, "answers": [of[nouns[1]] for of in classes]}


RULES = {"order": order, "possession": possession, "agreement": agreement}


def puzzles() -> list[Row]:
    """Every puzzle, both forms of a lexicon next to each other."""
    rows: list[Row] = []
    for rule, draw in RULES.items():
        for number in range(1, N_PUZZLES + 1):
            rng = random.Random(f"{rule} {number}")
            for one in draw(rng):
                rows.append(
                    {
                        "id": f"{rule}-{number:02d}-{one['form']}",
                        "clean": one["texts"][0],
                        "corrupt": one["texts"][1],
                        "answer": one["answers"][0],
                        "wrong_answer": one["answers"][1],
                        "rule": rule,
                        "form": one["form"],
                        "lexicon": f"{rule}-{number:02d}",
                    }
                )
    return rows


# --- facts -------------------------------------------------------------------------------------


def facts() -> list[Row]:
    """One row a country."""
    rows: list[Row] = []
    for line in COUNTRIES.strip().splitlines():
        country, capital, language, continent = line.split("; ")
        landmarks = LANDMARKS.get(country, "")
        listed = [name for name in landmarks.split("; ") if name]
        rows.append(
            {
                "country": country,
                "capital": capital,
                "language": language,
                "continent": continent,
                "landmarks": listed,
            }
        )
    return rows


def write(rows: Sequence[Row], name: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    write(facts(), "recall_facts.jsonl")
    write(puzzles(), "linguistic_puzzles.jsonl")


if __name__ == "__main__":
    main()
