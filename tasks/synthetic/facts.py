"""Facts about people in natural sentences, each asked as a sentence to complete.

Every fact is of another person and another kind, its value drawn at random from a list of its kind.

    ... Clara Norton was born in the city of Denver. The warm bench faded under the old tree for years. ...

    Clara Norton was born in the city of  ->  Denver
"""

import numpy as np

from tasks.counting import count_tokens
from tasks.filler import pick, pick_distinct, spread, words
from tasks.synthetic import Context, Question
from tasks.synthetic.phonebook import FIRST_NAMES, LAST_NAMES

MIN_LENGTH = 256
NEEDS: tuple[str, ...] = ()

CITIES = words(
    "London Paris Berlin Madrid Rome Vienna Prague Dublin Oslo Cairo Delhi Tokyo Boston Chicago Denver Dallas "
    "Houston Seattle Toronto Montreal Sydney Lisbon Athens Moscow Warsaw Budapest Istanbul Baghdad Mumbai Manila "
    "Seoul Beijing Shanghai Lima Havana Milan Venice Florence Naples Hamburg Munich Zurich Geneva Brussels "
    "Stockholm Helsinki"
)
JOBS = words(
    "teacher doctor lawyer baker farmer painter sailor nurse writer pilot carpenter musician dancer singer judge "
    "soldier chef butcher gardener librarian poet clerk miner tailor dentist surgeon scientist chemist detective "
    "driver coach guard fisherman shepherd priest merchant"
)
ANIMALS = words(
    "dog cat horse goat rabbit parrot turtle snake sheep pig duck cow donkey mouse lizard frog spider eagle monkey camel goose"
)
FOODS = words(
    "bread soup cheese rice pasta fish chicken honey apples grapes cherries potatoes beans salad pizza chocolate "
    "cake butter eggs corn onions carrots tomatoes oranges lemons bananas mushrooms nuts"
)
INSTRUMENTS = words("piano violin guitar flute drum trumpet harp organ")
MONTHS = words("January February March April May June July August September October November December")
COLOURS = words("red blue green yellow white black brown orange purple pink silver gold grey")

KINDS = (
    ("{} was born in the city of", CITIES),
    ("{} found work as a", JOBS),
    ("The favorite food of {} is called", FOODS),
    ("Every evening {} feeds a hungry", ANIMALS),
    ("The house of {} was painted", COLOURS),
    ("{} spent last summer traveling to", CITIES),
    ("The father of {} was a famous", JOBS),
    ("The wedding of {} took place in", MONTHS),
    ("At the concert {} played the", INSTRUMENTS),
    ("The neighbor of {} owns a pet", ANIMALS),
)


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """`questions` facts, each asked once; raises ValueError where there are more than kinds."""
    if questions > len(KINDS):
        raise ValueError(f"facts: {questions} questions asked, at most {len(KINDS)} possible")
    people = zip(pick_distinct(rng, FIRST_NAMES, questions), pick_distinct(rng, LAST_NAMES, questions), strict=True)
    kinds = [KINDS[int(i)] for i in rng.permutation(len(KINDS))[:questions]]
    cues = [cue.format(f"{first} {last}") for (first, last), (cue, _) in zip(people, kinds, strict=True)]
    values: list[str] = []
    for _, listed in kinds:
        values.append(pick(rng, [word for word in listed if word not in values]))
    tail = max(count_tokens(cue) for cue in cues) + 1
    text = spread(rng, [f"{cue} {value}." for cue, value in zip(cues, values, strict=True)], length - tail)
    asked = [
        Question(f"\n\n{cue}", [value], depth, text.after(cue))
        for cue, value, depth in zip(cues, values, text.depths, strict=True)
    ]
    return Context(text.text, asked)
