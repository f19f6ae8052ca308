"""Relations that lead to a subject: what is asked of it, and the phrase that means it instead.

Numbers are Wikidata's, as in MQuAKE (arXiv 2305.14795); ``^`` marks the inverse of one. Those
without a number are further ones of the same kinds of subjects.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SubjectRelation:
    """A relation between a source and a subject.

    Attributes:
        id: Wikidata's number, or a name.
        kind: of its subjects, as ``"France is a"`` is continued by.
        elicit: asks for sources, with ``{}`` for the subject.
        phrase: means the subject, with ``{}`` for a source.
        question: asks for the subject, with ``{}`` for a source.
    """

    id: str
    kind: str
    elicit: str
    phrase: str
    question: str


_TABLE = """
^P36 | country | What is the capital of {}?
  | the country whose capital is {} | Which country has {} as its capital?
P17 | country | Which landmarks are in {}?
  | the country where {} is located | Which country is {} located in?
city | country | Which cities are in {}?
  | the country that the city of {} belongs to | Which country does the city of {} belong to?
P27 | country | Which famous people are citizens of {}?
  | the country of citizenship of {} | What is the country of citizenship of {}?
birth | country | Which famous people were born in {}?
  | the country where {} was born | In which country was {} born?
^P35 | country | Which people have led {}?
  | the country that {} led | Which country did {} lead?
P495 | country | Which foods and drinks come from {}?
  | the country that {} comes from | Which country does {} come from?
company | country | Which companies are from {}?
  | the home country of the company {} | Which country is the company {} from?
^P37 | country | Which language is spoken in {}?
  | the country whose main language is {} | Which country's main language is {}?
currency | country | Which currency is used in {}?
  | the country that uses the {} as its currency | Which country uses the {} as its currency?
state capital | state | What is the capital of {}?
  | the US state whose capital is {} | Which US state has {} as its capital?
state city | state | Which cities are in {}?
  | the US state that the city of {} is in | Which US state is the city of {} in?
state landmark | state | Which landmarks, universities and teams are in {}?
  | the US state that is home to {} | Which US state is home to {}?
P131 | city | Which landmarks are in {}?
  | the city where {} is located | Which city is {} located in?
P159 | city | Which companies have their headquarters in {}?
  | the city of the headquarters of {} | Which city is the headquarter of {} located in?
P19 | city | Which famous people were born in {}?
  | the city where {} was born | Which city was {} born in?
P20 | city | Which famous people died in {}?
  | the city where {} died | Which city did {} die in?
P36 | city | Of which country is {} the capital?
  | the capital of {} | What is the capital of {}?
P937 | city | Which famous people worked in {}?
  | the city where {} worked | Which city did {} work in?
P740 | city | Which teams and clubs are from {}?
  | the city that {} comes from | Which city is {} from?
P50 | person | Which books did {} write?
  | the author of {} | Who is the author of {}?
P170 | person | What was created by {}?
  | the creator of {} | Who was {} created by?
P175 | person | Which songs or films is {} known for?
  | the performer of {} | Who performed {}?
P26 | person | Who is {} married to?
  | the spouse of {} | Who is {} married to?
P40 | person | Who are the children of {}?
  | the parent of {} | Who is the parent of {}?
P35 | person | Of which country is {} the head of state?
  | the head of state of {} | Who is the head of state of {}?
P6 | person | Which governments did {} lead?
  | the head of the government of {} | Who is the head of the government of {}?
P169 | person | Which company does {} lead?
  | the chief executive officer of {} | Who is the chief executive officer of {}?
P488 | person | Which party or organisation does {} chair?
  | the chairperson of {} | Who is the chairperson of {}?
P1037 | person | Which organisation does {} direct?
  | the director of {} | Who is the director of {}?
P286 | person | Which team does {} coach?
  | the head coach of {} | Who is the head coach of {}?
P1308 | person | Which office does {} hold?
  | the holder of the office of {} | Who is the holder of the office of {}?
P112 | person | Which companies or movements did {} found?
  | the founder of {} | Who founded {}?
discovery | person | What did {} discover or invent?
  | the person known for {} | Which person is known for {}?
P176 | company | Which products are made by {}?
  | the company that makes {} | Which company makes {}?
^P112 | company | Who founded {}?
  | the company founded by {} | Which company was founded by {}?
^P169 | company | Who is the chief executive officer of {}?
  | the company led by {} | Which company is led by {}?
P178 | company | What was developed by {}?
  | the developer of {} | Who is the developer of {}?
P449 | company | Which shows were broadcast by {}?
  | the original broadcaster of {} | Who is the original broadcaster of {}?
P108 | company | Which people are employed by {}?
  | the employer of {} | Who is the employer of {}?
P69 | university | Which famous people were educated at {}?
  | the university where {} was educated | Which university was {} educated at?
P641 | sport | Which famous athletes play {}?
  | the sport that {} is famous for | Which sport is {} famous for?
league | sport | Which leagues and teams play {}?
  | the sport that is played in the {} | Which sport is played in the {}?
tool | sport | What do players use in {}?
  | the sport that is played with a {} | Which sport is played with a {}?
P140 | religion | Which famous people are followers of {}?
  | the religion of {} | Which religion is {} affiliated with?
sign | religion | What are holy things and places of {}?
  | the religion to which {} belongs | Which religion does {} belong to?
P1412 | language | Which famous people speak {}?
  | the language that {} speaks | What language does {} speak?
P37 | language | In which countries is {} spoken?
  | the official language of {} | What is the official language of {}?
P407 | language | Which books were written in {}?
  | the language in which {} was written | Which language was {} written in?
P30 | continent | Which countries are in {}?
  | the continent where {} is located | Which continent is {} located in?
P413 | position | Which famous athletes play as {}?
  | the position that {} plays | What position does {} play?
P136 | genre | Which musicians play {}?
  | the type of music that {} plays | What type of music does {} play?
P800 | work | Who made {}?
  | the famous work of {} | What is {} famous for?
character | work | Which characters are in {}?
  | the work in which {} appears | In which work does {} appear?
"""
"""Id, kind and elicit; below them phrase and question."""
_LINES = _TABLE.strip().splitlines()
SUBJECT_RELATIONS = tuple(
    SubjectRelation(*(part.strip() for part in f"{one}{more}".split("|")))
    for one, more in zip(_LINES[::2], _LINES[1::2], strict=True)
)
KINDS = tuple(dict.fromkeys(relation.kind for relation in SUBJECT_RELATIONS))
