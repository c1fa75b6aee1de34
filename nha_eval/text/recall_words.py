"""Names and values for the recall text: drawn at random, so that no question can be answered but by looking it up.

Names of people and things are other than those in the evaluation's tasks, and most are put together anew.

    person(np.random.default_rng(0))        # 'Yusra Okonjo'
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from tasks.filler import words

T = TypeVar("T")

GIVEN = words(
    "Yusra Ingrid Tomasz Akira Priya Dmitri Noor Kwame Saoirse Mateo Leila Bjorn Chiara Rafael Anwen Jamal Svetlana "
    "Ravi Ilse Hamza Mireille Tariq Beatriz Caspian Odile Nikhil Freya Zoltan Amina Lars Guadalupe Emeka Sigrid Paolo "
    "Hyacinth Ibrahim Wren Kenji Marisol Otto Farah Gideon Thandi Piers Xiomara Rohan Agnieszka Silas Nadezhda Cormac"
)
FAMILY = words(
    "Okonjo Lindqvist Marchetti Farouk Tanaka Ashworth Petrov Banerjee Villanueva Nakamura Holloway Dembele Kowalczyk "
    "Ferreira Osterman Achterberg Mbeki Sorensen Quintero Haddad Ravensworth Ivanova Castellan Wojcik Thackeray Nwosu "
    "Brandvold Esposito Yamada Pemberton Zielinski Abernathy Lachapelle Rasmussen Chaudhry Beaumont Kovalenko Ostrander "
    "Ferrante Dlamini Gustafsson Trevelyan Moreau Vasquez Hathersage Bhattacharya Eriksen Oyelaran Penhaligon Strand"
)
# Put together they name ships, farms, streets, machines and villages.
FRONTS = words(
    "Ash Birk Crow Dun Ever Fenn Gorse Hather Iver Kes Lark Mor Nether Oak Pel Quill Rook Stan Thorn Ulver Wex Yarrow Brack "
    "Cald"
)
BACKS = words(
    "mere wick combe stead thwaite hollow ford garth leigh holt brook fell worth dale gill minster hurst crag ness sett "
    "moor stow"
)
THINGS = words(
    "hinges funnels gaskets trowels beakers pulleys chisels spools valves bobbins clamps sieves ratchets tarpaulins "
    "bellows lanyards grommets rivets ladles castors corks thimbles trestles buckles dowels nozzles shims brackets "
    "tongs wicks crates pails mallets sprockets flanges gauges bolts washers lenses tiles flasks hoses stencils awnings "
    "oars planks reels skewers"
)
OFFICES = words(
    "treasurer secretary surveyor archivist steward auditor registrar foreman quartermaster bursar chaplain warden "
    "usher curator engraver brewer glazier thatcher wheelwright signalman ferryman apothecary printer mason weaver"
)
SUBSTANCES = words(
    "basalt chalk resin ochre gypsum slate felspar amber flint tallow cobalt borax graphite limestone pumice saltpetre "
    "zinc cork"
)
ACTS = (
    "repair the weather vane",
    "draw up the inventory",
    "write to the insurers",
    "collect the subscriptions",
    "repaint the railings",
    "order new uniforms",
    "survey the drains",
    "catalogue the donations",
    "replace the boiler",
    "audit the accounts",
    "print the programme",
    "prune the hedges",
    "find a new caretaker",
    "answer the complaints",
    "measure the cellar",
    "renew the licence",
    "arrange the excursion",
    "translate the by-laws",
)
HIDES = (
    "behind the third radiator",
    "under the loose flagstone",
    "inside the biscuit tin",
    "on top of the linen press",
    "taped below the bottom drawer",
    "in the pocket of the grey raincoat",
    "beneath the doormat of the annexe",
    "at the back of the spice rack",
    "in the hollow newel post",
    "between the atlases",
    "under the seat of the rowing machine",
    "inside the piano stool",
    "in the glove compartment",
    "behind the meter cupboard",
    "in the toe of the left wellington",
    "among the tomato canes",
)
MEANINGS = (
    "a wedge that keeps a sluice open",
    "the share of a harvest owed to the miller",
    "a song for three voices without words",
    "the rope by which a bell is silenced",
    "a debt that is paid in labour",
    "ground that floods every second spring",
    "the last coach of a night train",
    "a stitch that leaves no knot",
    "a map drawn from hearsay",
    "the pause before a verdict",
    "a stove with two chimneys",
    "the child of a second cousin",
    "a path kept clear for cattle",
    "a fine for speaking out of turn",
    "the skin that forms on cooling glue",
    "wool combed in only one direction",
    "a lamp carried ahead of a procession",
    "a vote cast on behalf of the absent",
    "the noise of ice against a hull",
    "a letter that is never answered",
)
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
HUES = words(
    "teal maroon indigo turquoise beige crimson lilac ochre khaki magenta russet aquamarine fawn charcoal cerise mustard"
)
_SYLLABLES = [a + b for a in words("b br d dr f fl g gl k kl l m n p pr r s st t tr v z") for b in words("a e i o u ai ou")]
_ENDS = words("n l r th sk m nd st x ck lm rd")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def choose(rng: np.random.Generator, *options: T) -> T:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def distinct(rng: np.random.Generator, options: list[T] | tuple[T, ...], count: int) -> list[T]:
    """`count` different ones, in random order."""
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]


def several(rng: np.random.Generator, make, count: int) -> list[str]:
    """`count` different results of `make(rng)`."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make(rng)] = None
    return list(found)


def person(rng: np.random.Generator) -> str:
    return f"{choose(rng, *GIVEN)} {choose(rng, *FAMILY)}"


def titled(rng: np.random.Generator) -> str:
    return f"{choose(rng, 'Mr', 'Mrs', 'Ms', 'Dr', 'Professor', 'Captain')} {choose(rng, *FAMILY)}"


def place(rng: np.random.Generator) -> str:
    """A name such as Fennwick, for a ship, a farm, a station."""
    return choose(rng, *FRONTS) + choose(rng, *BACKS)


def coined(rng: np.random.Generator) -> str:
    """A word of no language, in small letters."""
    return "".join(choose(rng, *_SYLLABLES) for _ in range(int(rng.integers(1, 3)))) + choose(rng, *_ENDS)


def number(rng: np.random.Generator, digits: int | None = None) -> int:
    """An integer of so many digits; of two to five where None."""
    digits = digits or int(rng.integers(2, 6))
    return int(rng.integers(10 ** (digits - 1), 10**digits))


def code(rng: np.random.Generator) -> str:
    """A mark such as KV-482, 7Q3X or M.19.c."""
    letters = "".join(choose(rng, *_LETTERS) for _ in range(3))
    return choose(
        rng,
        f"{letters[:2]}-{number(rng, 3)}",
        f"{int(rng.integers(2, 10))}{letters[0]}{int(rng.integers(2, 10))}{letters[1]}",
        f"{letters[0]}.{number(rng, 2)}.{letters[1].lower()}",
        f"{letters}{number(rng, 2)}",
        f"{number(rng, 4)}/{letters[0]}",
    )


def clock(rng: np.random.Generator) -> str:
    return f"{int(rng.integers(5, 23))}:{int(rng.integers(60)):02d}"


def money(rng: np.random.Generator) -> str:
    return f"{choose(rng, '£', '$', '€')}{number(rng, int(rng.integers(2, 4)))}.{int(rng.integers(100)):02d}"


def measure(rng: np.random.Generator) -> str:
    """A figure with its unit, such as 17.4 kg."""
    unit = choose(rng, "kg", "mm", "litres", "ohms", "degrees", "lux", "metres", "grams", "bar")
    return f"{number(rng, int(rng.integers(1, 4)))}.{int(rng.integers(1, 10))} {unit}"


def digest(rng: np.random.Generator) -> str:
    """Eight hexadecimal digits."""
    return f"{int(rng.integers(16**7, 16**8)):x}"
