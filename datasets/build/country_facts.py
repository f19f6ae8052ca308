"""Write ``country_facts`` and ``country_facts_chat``, and count what models get right on them.

    python datasets/build/country_facts.py write           # both files, the same bytes every time
    python datasets/build/country_facts.py count MODEL …   # Markdown tables of right answers

Every fact and sentence is written here by hand. Every answer has 1 to 4 tokens for all `MODELS`, in
both forms.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import interp
from interp.data.chat import has_template
from interp.data.pairs import PromptPairs, tokenise
from interp.errors import DataError
from interp.loading import builtin
from interp.model.model import Model

MODELS = ("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b")
FOLDER = Path(__file__).resolve().parent.parent
LONGEST = 4  # tokens of an answer

# country: capital; currency; official language; largest city; nationality. Aliases after "|", the
# usual name first; "-" where there are several answers, the answer is disputed or changing, or the
# country's name gives it away. "the" belongs to the sentence, not to the subject.
COUNTRIES = """
Albania: Tirana; lek|Albanian lek; Albanian; Tirana; Albanian
Algeria: Algiers; dinar|Algerian dinar; -; -; Algerian
Argentina: Buenos Aires; peso|Argentine peso; Spanish; Buenos Aires; Argentine|Argentinian
Armenia: Yerevan; dram|Armenian dram; Armenian; Yerevan; Armenian
Australia: Canberra; dollar|Australian dollar; -; -; Australian
Austria: Vienna; euro; German; Vienna; Austrian
Azerbaijan: Baku; manat|Azerbaijani manat; Azerbaijani|Azeri; Baku; Azerbaijani|Azeri
Bangladesh: Dhaka; taka|Bangladeshi taka; Bengali|Bangla; Dhaka; Bangladeshi
Belgium: Brussels; euro; -; -; Belgian
Brazil: Brasília|Brasilia; real|Brazilian real; Portuguese; São Paulo|Sao Paulo; Brazilian
Bulgaria: Sofia; -; Bulgarian; Sofia; Bulgarian
Cambodia: Phnom Penh; riel|Cambodian riel; Khmer; Phnom Penh; Cambodian
Canada: Ottawa; dollar|Canadian dollar; -; Toronto; Canadian
Chile: Santiago; peso|Chilean peso; Spanish; Santiago; Chilean
China: Beijing; yuan|renminbi|Chinese yuan; Chinese|Mandarin|Mandarin Chinese; -; Chinese
Colombia: Bogotá|Bogota; peso|Colombian peso; Spanish; Bogotá|Bogota; Colombian
Croatia: Zagreb; euro; Croatian; Zagreb; Croatian
Cuba: Havana; peso|Cuban peso; Spanish; Havana; Cuban
the Czech Republic: Prague; koruna|Czech koruna; -; Prague; Czech
Denmark: Copenhagen; krone|Danish krone; Danish; Copenhagen; Danish
Ecuador: Quito; -; Spanish; -; Ecuadorian
Egypt: Cairo; pound|Egyptian pound; Arabic; Cairo; Egyptian
Estonia: Tallinn; euro; Estonian; Tallinn; Estonian
Ethiopia: Addis Ababa; birr|Ethiopian birr; -; Addis Ababa; Ethiopian
Finland: Helsinki; euro; -; Helsinki; Finnish
France: Paris; euro; French; Paris; French
Germany: Berlin; euro; German; Berlin; German
Ghana: Accra; cedi|Ghanaian cedi; English; -; Ghanaian
Greece: Athens; euro; Greek; Athens; Greek
Hungary: Budapest; forint|Hungarian forint; Hungarian; Budapest; Hungarian
Iceland: Reykjavik|Reykjavík; krona|króna|Icelandic krona|Icelandic króna; Icelandic; \
Reykjavik|Reykjavík; Icelandic
India: New Delhi|Delhi; rupee|Indian rupee; -; -; Indian
Indonesia: -; rupiah|Indonesian rupiah; Indonesian|Bahasa Indonesia; Jakarta; Indonesian
Iran: Tehran; rial|Iranian rial; Persian|Farsi; Tehran; Iranian
Iraq: Baghdad; dinar|Iraqi dinar; -; Baghdad; Iraqi
Ireland: Dublin; euro; -; Dublin; Irish
Israel: -; shekel|new shekel|Israeli shekel|Israeli new shekel; Hebrew; -; Israeli
Italy: Rome; euro; Italian; Rome; Italian
Jamaica: Kingston; dollar|Jamaican dollar; English; Kingston; Jamaican
Japan: Tokyo; yen|Japanese yen; Japanese; Tokyo; Japanese
Jordan: Amman; dinar|Jordanian dinar; Arabic; Amman; Jordanian
Kazakhstan: Astana; tenge|Kazakhstani tenge; -; Almaty; Kazakh|Kazakhstani
Kenya: Nairobi; shilling|Kenyan shilling; -; Nairobi; Kenyan
Latvia: Riga; euro; Latvian; Riga; Latvian
Lebanon: Beirut; pound|Lebanese pound|lira; Arabic; Beirut; Lebanese
Libya: Tripoli; dinar|Libyan dinar; Arabic; Tripoli; Libyan
Lithuania: Vilnius; euro; Lithuanian; Vilnius; Lithuanian
Malaysia: Kuala Lumpur; ringgit|Malaysian ringgit; Malay|Bahasa Malaysia; Kuala Lumpur; Malaysian
Mexico: -; peso|Mexican peso; Spanish; -; Mexican
Mongolia: Ulaanbaatar|Ulan Bator; -; Mongolian; Ulaanbaatar|Ulan Bator; Mongolian
Morocco: Rabat; dirham|Moroccan dirham; -; Casablanca; Moroccan
Myanmar: Naypyidaw; kyat|Burmese kyat; Burmese; Yangon|Rangoon; Burmese
Nepal: Kathmandu; rupee|Nepalese rupee; Nepali|Nepalese; Kathmandu; Nepalese|Nepali
the Netherlands: Amsterdam; euro; Dutch; Amsterdam; Dutch
New Zealand: Wellington; dollar|New Zealand dollar; -; Auckland; -
Nigeria: Abuja; naira|Nigerian naira; English; Lagos; Nigerian
Norway: Oslo; krone|Norwegian krone; Norwegian; Oslo; Norwegian
Pakistan: Islamabad; rupee|Pakistani rupee; -; Karachi; Pakistani
Peru: Lima; sol|Peruvian sol; -; Lima; Peruvian
the Philippines: Manila; peso|Philippine peso; -; -; Filipino
Poland: Warsaw; zloty|złoty|Polish zloty|Polish złoty; Polish; Warsaw; Polish
Portugal: Lisbon; euro; Portuguese; Lisbon; Portuguese
Romania: Bucharest; leu|Romanian leu; Romanian; Bucharest; Romanian
Russia: Moscow; ruble|rouble|Russian ruble|Russian rouble; Russian; Moscow; Russian
Saudi Arabia: Riyadh; riyal|Saudi riyal; Arabic; Riyadh; Saudi|Saudi Arabian
Serbia: Belgrade; dinar|Serbian dinar; Serbian; Belgrade; Serbian
Slovakia: Bratislava; euro; Slovak; Bratislava; Slovak|Slovakian
Slovenia: Ljubljana; euro; -; Ljubljana; Slovenian|Slovene
South Korea: Seoul; won|Korean won|South Korean won; Korean; Seoul; South Korean|Korean
Spain: Madrid; euro; Spanish; Madrid; Spanish
Sweden: Stockholm; krona|Swedish krona; Swedish; Stockholm; Swedish
Switzerland: Bern|Berne; franc|Swiss franc; -; Zurich|Zürich; Swiss
Syria: Damascus; pound|Syrian pound; Arabic; -; Syrian
Tanzania: Dodoma; shilling|Tanzanian shilling; -; Dar es Salaam; Tanzanian
Thailand: Bangkok; baht|Thai baht; Thai; Bangkok; Thai
Tunisia: Tunis; dinar|Tunisian dinar; Arabic; Tunis; Tunisian
Turkey: Ankara; lira|Turkish lira; Turkish; Istanbul; Turkish
Ukraine: Kyiv|Kiev; hryvnia|Ukrainian hryvnia; Ukrainian; Kyiv|Kiev; Ukrainian
the United Kingdom: London; pound|pound sterling|British pound; English; London; British
the United States: Washington|Washington, D.C.; dollar|US dollar|U.S. dollar; -; \
New York|New York City; American
Venezuela: Caracas; bolívar|bolivar; Spanish; Caracas; Venezuelan
Vietnam: Hanoi; dong|đồng|Vietnamese dong; Vietnamese; Ho Chi Minh City|Saigon; Vietnamese
"""

# each lies wholly in the one city, whose name it does not hold
LANDMARKS = """
Paris: the Eiffel Tower; the Louvre; the Moulin Rouge; the Arc de Triomphe
Rome: the Colosseum; the Trevi Fountain; the Spanish Steps
Florence: the Uffizi Gallery; the Ponte Vecchio
Venice: the Rialto Bridge; the Doge's Palace
Berlin: the Brandenburg Gate; the Reichstag; Checkpoint Charlie
Vienna: Schönbrunn Palace; the Belvedere Palace
London: Big Ben; Buckingham Palace; Westminster Abbey; Trafalgar Square
Edinburgh: the Royal Mile; Holyrood Palace
Dublin: Croke Park; the Guinness Storehouse
Madrid: the Prado Museum; the Reina Sofia Museum
Barcelona: the Sagrada Familia; Park Güell
Granada: the Alhambra
Saint Petersburg|St. Petersburg|St Petersburg: the Hermitage Museum; the Winter Palace
Moscow: the Kremlin; Red Square; the Bolshoi Theatre
Beijing: the Forbidden City; the Temple of Heaven; Tiananmen Square
Istanbul: the Hagia Sophia; the Topkapi Palace; the Galata Tower
Athens: the Acropolis; the Parthenon
Agra: the Taj Mahal
Jaipur: the Hawa Mahal
Kuala Lumpur: the Petronas Towers
Dubai: the Burj Khalifa
Toronto: the CN Tower
Seattle: the Space Needle
San Francisco: the Golden Gate Bridge; Alcatraz
New York|New York City: Times Square; the Empire State Building; Carnegie Hall; Central Park
Boston: Fenway Park
St. Louis|Saint Louis|St Louis: the Gateway Arch
San Antonio: the Alamo
Washington|Washington, D.C.: the White House; the Lincoln Memorial
Rio de Janeiro: Copacabana Beach; Sugarloaf Mountain
Bangkok: Wat Pho; Wat Arun
Yangon|Rangoon: the Shwedagon Pagoda
Stockholm: the Vasa Museum; Gamla Stan
Copenhagen: Tivoli Gardens
Amsterdam: the Rijksmuseum; the Anne Frank House
Brussels: the Atomium; Manneken Pis
Prague: Charles Bridge
Budapest: Buda Castle; the Fisherman's Bastion
Kraków|Krakow|Cracow: Wawel Castle
Cape Town: Table Mountain
Lahore: the Badshahi Mosque
Seoul: Gyeongbokgung Palace
Tokyo: the Meiji Shrine; Senso-ji
Kyoto: the Fushimi Inari Shrine; Kinkaku-ji
Lisbon: the Belém Tower
"""

# relation: the sentence that the answer completes, and the question that it answers
RELATIONS = {
    "capital": ("The capital of {} is the city of", "What is the capital of {}?"),
    "currency": ("The official currency of {} is the", "What is the official currency of {}?"),
    "language": ("The official language of {} is", "What is the official language of {}?"),
    "largest-city": ("The largest city of {} is the city of", "What is the largest city of {}?"),
    "nationality": (
        "My friend comes from {}, so his nationality is",
        "What is the nationality of a person from {}?",
    ),
    "landmark": ("{} is located in the city of", "In which city is {}?"),
}
ONLY = "Answer with the name only."


@dataclass(frozen=True)
class Known:
    """A subject as it stands in a sentence, and what answers a question about it."""

    relation: str
    phrase: str
    answers: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The phrase without its article."""
        return self.phrase.removeprefix("the ")

    @property
    def id(self) -> str:
        """Its row's name."""
        plain = "".join(c if c.isalnum() else "-" for c in self.subject.lower())
        return f"{self.relation}-{plain}"

    def completion(self) -> tuple[str, list[str]]:
        """A sentence without its end, and the ends that are right."""
        text = RELATIONS[self.relation][0].format(self.phrase)
        return text[0].upper() + text[1:], list(self.answers)

    def chat(self) -> tuple[list[dict[str, str]], list[str]]:
        """A question as a user's turn, and the replies that are right, capitalised ones first."""
        asked = f"{RELATIONS[self.relation][1].format(self.phrase)} {ONLY}"
        upper = [answer[0].upper() + answer[1:] for answer in self.answers]
        return [{"role": "user", "content": asked}], list(dict.fromkeys([*upper, *self.answers]))


FORMS = {"country_facts": Known.completion, "country_facts_chat": Known.chat}


def facts() -> list[Known]:
    """All facts, relation by relation."""
    of_countries = list(RELATIONS)[:-1]
    found: dict[str, list[Known]] = defaultdict(list)
    for name, listed in _table(COUNTRIES):
        for relation, answer in zip(of_countries, listed, strict=True):
            if answer != "-":
                found[relation].append(Known(relation, name, tuple(answer.split("|"))))
    for city, listed in _table(LANDMARKS):
        found["landmark"] += [Known("landmark", one, tuple(city.split("|"))) for one in listed]
    return [fact for relation in RELATIONS for fact in found[relation]]


def _table(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.strip().splitlines():
        name, _, listed = line.partition(": ")
        yield name, listed.split("; ")


# --- rows ----------------------------------------------------------------------------------------


def row(form: str, clean: Known, corrupt: Known) -> dict[str, Any]:
    """A pair of facts as a row of one of `FORMS`."""
    (first, answers), (second, others) = FORMS[form](clean), FORMS[form](corrupt)
    return {
        "id": clean.id,
        "relation": clean.relation,
        "clean": first,
        "corrupt": second,
        "answer": answers[0] if len(answers) == 1 else answers,
        "wrong_answer": others[0] if len(others) == 1 else others,
        "spans": {"subject": [clean.subject, corrupt.subject]},
    }


def readers() -> list[Model]:
    """The models as far as tokens go: their tokenizers."""
    tokenizers = [AutoTokenizer.from_pretrained(builtin.pull(name)) for name in MODELS]
    arch: Any = None
    return [Model(arch, t, name, arch) for name, t in zip(MODELS, tokenizers, strict=True)]


def forms(model: Model) -> list[str]:
    """The forms that a model reads."""
    return list(FORMS) if has_template(model) else ["country_facts"]


def short(fact: Known, models: Sequence[Model]) -> Known | None:
    """The fact with those of its answers that have few tokens; None where its usual name has more.

    An alias may also be too close to another one to count as a text of its own; that is settled
    where pairs are put into tokens.
    """
    kept = [text for text in fact.answers if all(_few(fact, text, model) for model in models)]
    if not kept or kept[0] != fact.answers[0]:
        return None
    return Known(fact.relation, fact.phrase, tuple(kept))


def _few(fact: Known, answer: str, model: Model) -> bool:
    other = Known(fact.relation, "Atlantis", ("Zanzibar Island of the Far East",))
    alone = Known(fact.relation, fact.phrase, (answer,))
    for form in forms(model):
        (pair,), _ = tokenise(model, PromptPairs.from_records([row(form, alone, other)]))
        if max(map(len, pair.answers[0])) > LONGEST:
            return False
    return True


def fits(clean: Known, corrupt: Known, models: Sequence[Model]) -> bool:
    """Whether two facts can be told apart in every form and every model's tokens."""
    if set(clean.answers) & set(corrupt.answers):
        return False
    try:
        for model in models:
            for form in forms(model):
                tokenise(model, PromptPairs.from_records([row(form, clean, corrupt)]))
    except DataError:
        return False
    return True


def lengths(fact: Known, models: Sequence[Model]) -> tuple[int, ...]:
    """Tokens of the sentence for each model; facts of the same are aligned one to one."""
    return tuple(len(model.encode(fact.completion()[0])) for model in models)


def partners(
    group: Sequence[Known], models: Sequence[Model], rng: random.Random
) -> dict[Known, Known]:
    """Give facts a counterpart each, every one used once; those that find none are left out."""
    left, found = rng.sample(group, len(group)), dict[Known, Known]()
    while True:
        chosen = _ring(left, models, rng)
        if chosen or len(left) < 2:
            return found | chosen
        # the commonest answer has too many facts for this group
        count = {fact: sum(one.answers == fact.answers for one in left) for fact in left}
        left.remove(max(left, key=count.__getitem__))


def _ring(
    group: Sequence[Known], models: Sequence[Model], rng: random.Random
) -> dict[Known, Known]:
    by_answer = sorted(rng.sample(group, len(group)), key=lambda fact: fact.answers)
    for shift in range(1, len(group)):
        pairs = dict(zip(by_answer, by_answer[shift:] + by_answer[:shift], strict=True))
        if all(fits(clean, corrupt, models) for clean, corrupt in pairs.items()):
            return pairs
    return {}


def pairs() -> list[tuple[Known, Known]]:
    """Every fact with its counterpart: one of equal length where there is one."""
    models, rng = readers(), random.Random(0)
    usable = [fact for fact in (short(fact, models) for fact in facts()) if fact]
    found: dict[Known, Known] = {}
    for relation in RELATIONS:
        own = [fact for fact in usable if fact.relation == relation]
        groups: dict[tuple[int, ...], list[Known]] = defaultdict(list)
        for fact in own:
            groups[lengths(fact, models)].append(fact)
        for group in groups.values():
            found |= partners(group, models, rng)
        found |= partners([fact for fact in own if fact not in found], models, rng)
    listed = [(fact, found[fact]) for fact in usable if fact in found]
    return rng.sample(listed, len(listed))


def write() -> None:
    """Write both files."""
    chosen = pairs()
    left_out = {fact.id for fact in facts()} - {clean.id for clean, _ in chosen}
    print(f"{len(left_out)} facts are left out: {', '.join(sorted(left_out))}")
    for form in FORMS:
        rows = [row(form, clean, corrupt) for clean, corrupt in chosen]
        PromptPairs.from_records(rows)
        lines = [json.dumps(one, ensure_ascii=False) for one in rows]
        (FOLDER / f"{form}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{form}.jsonl: {len(rows)} rows")
    _describe([dict(row(form, *pair), form=form) for form in FORMS for pair in chosen])


def _describe(rows: list[dict[str, Any]]) -> None:
    """Print how many tokens the answers have, and how many rows are aligned one to one."""
    print("| set | model | answers of 1 / 2 / 3 / 4 tokens | prompts of equal length |")
    print("|---" * 4 + "|")
    for form in FORMS:
        own = [one for one in rows if one["form"] == form]
        for model in (one for one in readers() if form in forms(one)):
            tokens, excluded = tokenise(model, PromptPairs.from_records(own))
            assert not excluded
            counts = [sum(len(t.answers[0][0]) == n for t in tokens) for n in range(1, LONGEST + 1)]
            equal = sum(len(t.clean) == len(t.corrupt) for t in tokens)
            print(f"| {form} | {model.name} | {' / '.join(map(str, counts))} | {equal} |")


# --- count ---------------------------------------------------------------------------------------


def count(names: Sequence[str], limit: int | None, dtype: str) -> None:
    """Print what models get right: greedy decoding writes an accepted answer."""
    print("| set | model | relation | n | clean right | both right | both preferred |")
    print("|---" * 7 + "|")
    for name in names:
        model = interp.load_model(name, device="cpu", dtype=dtype)
        for form in forms(model):
            _count(model, form, limit)


def _count(model: Model, form: str, limit: int | None) -> None:
    loaded = interp.load_pairs(form)[:limit]
    lines = (FOLDER / f"{form}.jsonl").read_text("utf-8").splitlines()
    relation = {one["id"]: one["relation"] for one in map(json.loads, lines)}
    options: dict[str, Any] = {"over": ("layer",), "layers": [0], "at": "last", "progress": False}
    ranks = interp.patch(model, loaded, metric="rank", **options).clean.values == 0
    margin = interp.patch(model, loaded, metric="logit_diff", **options)
    right = {pair.clean: bool(own) for pair, own in zip(loaded, ranks, strict=True)}
    preferred = (margin.clean.values > 0) & (margin.corrupt.values < 0)
    for name in (*RELATIONS, "all"):
        own = [
            (right[pair.clean], right[pair.clean] and right.get(pair.corrupt, False), bool(above))
            for pair, above in zip(loaded, preferred, strict=True)
            if name in ("all", relation[pair.id])
        ]
        sums = [sum(column) for column in zip(*own, strict=True)]
        cells = [f"{total} ({total / len(own):.0%})" for total in sums]
        if limit:
            cells[1] = "–"  # the corrupt prompts of a part are clean in other rows
        print(f"| {form} | {model.name} | {name} | {len(own)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "count"))
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--limit", type=int, help="Count the first rows only.")
    parser.add_argument("--dtype", default="float32", help="Number format of the weights.")
    given = parser.parse_args()
    write() if given.what == "write" else count(given.models, given.limit, given.dtype)
