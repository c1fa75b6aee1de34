"""Forms of the recall text that are tables, lists, code and logs: facts that stand together, asked back one by one.

stock(np.random.default_rng(0), 3)
"""

from __future__ import annotations

import json

import numpy as np

from nha_eval.text import recall_words as w
from nha_eval.text.recall_forms import Fact, Form, Sheet
from nha_eval.text.recall_words import choose, distinct, several


def stock(rng: np.random.Generator, count: int) -> Sheet:
    """A table of stock: how many, on which shelf; parted by bars, commas or tabs."""
    things = distinct(rng, w.THINGS, count)
    counts, shelves = several(rng, lambda r: str(w.number(r, 3)), count), several(rng, w.code, count)
    bar = choose(rng, " | ", ", ", "\t", "; ")
    facts = []
    for thing, many, shelf in zip(things, counts, shelves, strict=True):
        asked, value, said = choose(
            rng,
            (f"How many {thing} are in stock?", many, f"The list gives the number of {thing} as {many}."),
            (f"On which shelf are the {thing}?", shelf, f"To fetch the {thing} one goes to shelf {shelf}."),
            (f"{thing.capitalize()}: quantity?", many, f"Counted again, the {thing} came to {many}."),
            (f"Shelf mark of the {thing}?", shelf, f"The {thing} have the shelf mark {shelf}."),
        )
        facts.append(Fact(bar.join((thing, many, shelf)), asked, value, said))
    head = bar.join(choose(rng, ("item", "number", "shelf"), ("Article", "In stock", "Mark"), ("ITEM", "QTY", "SHELF")))
    return Sheet(f"{choose(rng, 'Stores of', 'Depot', 'Chandlery at')} {w.place(rng)}\n\n{head}", facts, "\n")


def harbour(rng: np.random.Generator, count: int) -> Sheet:
    """A register of ships: master, berth, cargo."""
    ships, masters = several(rng, w.place, count), several(rng, w.titled, count)
    berths, cargoes = several(rng, lambda r: str(w.number(r, 2)), count), distinct(rng, w.SUBSTANCES, count)
    shape = int(rng.integers(3))
    facts = []
    for number, (ship, master, berth, cargo) in enumerate(zip(ships, masters, berths, cargoes, strict=True), 1):
        row = (
            f"{number}. {ship}, {master}, berth {berth}, {cargo}",
            f"Entry {number}: the {ship} under {master} lies at berth {berth} with {cargo}.",
            f"{ship} -- master {master} -- cargo {cargo} -- berth {berth}",
        )[shape]
        asked, value, said = choose(
            rng,
            (f"Who is master of the {ship}?", master, f"The pilot asked for the master of the {ship}, {master}."),
            (f"What does the {ship} carry?", cargo, f"In the hold of the {ship} they found {cargo}."),
            (f"At which berth is the {ship}?", berth, f"The harbour-master wrote that the {ship} was at berth {berth}."),
            (f"Which vessel carries {cargo}?", ship, f"The vessel laden with {cargo} was the {ship}."),
        )
        facts.append(Fact(row, asked, value, said))
    return Sheet(choose(rng, f"Register of the port of {w.place(rng)}", "Arrivals", "Ships in harbour this week"), facts, "\n")


def constants(rng: np.random.Generator, count: int) -> Sheet:
    """Constants of a program or a settings file, in one of several languages, used further down."""
    heads = w.words(
        "RETRY CACHE FRAME BUFFER TOKENS SOCKET WORKER PACKET MARGIN EPOCH SHARD REPLICA CURSOR GUTTER BEACON SPOOL"
    )
    tails = w.words("LIMIT DEPTH OFFSET TIMEOUT RATIO CAPACITY BUDGET STRIDE QUOTA SPAN")
    names = several(rng, lambda r: f"{choose(r, *heads)}_{choose(r, *tails)}", count)
    values = several(rng, lambda r: str(w.number(r)), count)
    language = int(rng.integers(5))
    facts = []
    for name, value in zip(names, values, strict=True):
        camel = name.title().replace("_", "")
        stated, said = (
            (f"{name} = {value}", choose(rng, f"assert {name} == {value}", f"print({name})  # {value}")),
            (
                f"#define {name} {value}",
                choose(rng, f"/* {name} expands to {value} */", f'_Static_assert({name} == {value}, "");'),
            ),
            (
                f"{name.lower()}: {value}",
                choose(rng, f"# {name.lower()} stays at {value}", f"expect {name.lower()} to be {value}"),
            ),
            (f"const {camel} = {value};", choose(rng, f"console.log({camel}); // {value}", f"expect({camel}).toBe({value});")),
            (f"{name.lower()}={value}", choose(rng, f"$ echo ${name.lower()}\n{value}", f'test "${name.lower()}" -eq {value}')),
        )[language]
        facts.append(Fact(stated, choose(rng, f"Value of {name}?", f"To what is {name} set?"), value, said))
    comment = ("#", "//", "#", "//", "#")[language]
    return Sheet(f"{comment} {choose(rng, 'settings', 'defaults', 'tuning', 'limits')} of {w.coined(rng)}", facts, "\n")


def glossary(rng: np.random.Generator, count: int) -> Sheet:
    """Words that do not exist, each with a meaning; asked both ways."""
    terms, senses = several(rng, w.coined, count), distinct(rng, w.MEANINGS, count)
    mark = choose(rng, ": ", " -- ", ", n. ", " means ", " = ")
    facts = []
    for term, sense in zip(terms, senses, strict=True):
        asked, value, said = choose(
            rng,
            (f"What is a {term}?", sense, f"Readers will remember that {term} is the word for {sense}."),
            (f"Which word means {sense}?", term, f"The people there call {sense} a {term}."),
            (f"Define {term}.", sense, f"By {term}, then, we understand {sense}."),
        )
        facts.append(Fact(f"{term}{mark}{sense}", asked, value, said))
    return Sheet(
        choose(rng, "Glossary", f"Words of the {w.place(rng)} dialect", "Terms used in this book", "A small lexicon"),
        facts,
        "\n",
    )


def timetable(rng: np.random.Generator, count: int) -> Sheet:
    """Departures: when, from which platform."""
    stations, times = several(rng, w.place, count), several(rng, w.clock, count)
    tracks = [str(int(rng.integers(1, 25))) for _ in stations]
    shape = int(rng.integers(3))
    facts = []
    for station, time, track in zip(stations, times, tracks, strict=True):
        row = (
            f"{time}  {station}  platform {track}",
            f"{station}: dep. {time}, track {track}",
            f"To {station} at {time} from {track}",
        )[shape]
        asked, value, said = choose(
            rng,
            (f"When does the train to {station} leave?", time, f"Passengers for {station} were told to be ready at {time}."),
            (
                f"From where does the {station} service go?",
                track,
                f"The {station} train stood, as announced, at platform {track}.",
            ),
            (f"Departure for {station}?", time, f"The clerk looked it up: {station}, {time}."),
        )
        facts.append(Fact(row, asked, value, said))
    return Sheet(
        choose(rng, f"Departures from {w.place(rng)}", "Winter timetable", f"{choose(rng, *w.WEEKDAYS)}s only"), facts, "\n"
    )


def records(rng: np.random.Generator, count: int) -> Sheet:
    """Records of members, as JSON or CSV lines."""
    people, marks = several(rng, w.person, count), several(rng, w.code, count)
    towns, fees = several(rng, w.place, count), several(rng, w.money, count)
    as_json = bool(rng.integers(2))
    facts = []
    for who, mark, town, fee in zip(people, marks, towns, fees, strict=True):
        row = {"id": mark, "name": who, "branch": town, "fee": fee}
        asked, value, said = choose(
            rng,
            (f"id of {who}", mark, f"The card of {who} bears the mark {mark}."),
            (f"Who holds card {mark}?", who, f"Card {mark} was made out to {who}."),
            (f"branch of {who}", town, f"{who} belongs to the branch at {town}."),
            (f"What does {who} pay?", fee, f"From {who} the society received {fee}."),
        )
        facts.append(Fact(json.dumps(row, ensure_ascii=False) if as_json else ",".join(row.values()), asked, value, said))
    head = "" if as_json else "\nid,name,branch,fee"
    return Sheet(f"{choose(rng, 'members', 'export', 'subscribers', 'roll')}{head}", facts, "\n")


def logs(rng: np.random.Generator, count: int) -> Sheet:
    """Lines of a machine's log: which job ended how, with which checksum."""
    jobs, sums = several(rng, w.coined, count), several(rng, w.digest, count)
    hosts = [f"{w.coined(rng)}{int(rng.integers(1, 40))}" for _ in jobs]
    day = f"20{int(rng.integers(31, 60))}-{int(rng.integers(1, 13)):02d}-{int(rng.integers(1, 29)):02d}"
    shape = int(rng.integers(3))
    facts = []
    for job, checksum, host in zip(jobs, sums, hosts, strict=True):
        row = (
            f"{day} {w.clock(rng)} {host} {choose(rng, 'INFO', 'WARN', 'DEBUG')} {job}: done, sum {checksum}",
            f"[{w.clock(rng)}] {job}@{host} crc={checksum}",
            f"{host} finished {job} ({checksum})",
        )[shape]
        asked, value, said = choose(
            rng,
            (f"$ checksum {job}", checksum, f"verify {job}: expected {checksum}"),
            (f"Which host ran {job}?", host, f"ticket: {job} had run on {host}"),
            (f"$ grep {checksum} | cut job", job, f"the sum {checksum} is that of {job}"),
        )
        facts.append(Fact(row, asked, value, said))
    return Sheet(choose(rng, f"==> /var/log/{w.coined(rng)}.log <==", f"Log of {day}", "nightly jobs"), facts, "\n")


def recipes(rng: np.random.Generator, count: int) -> Sheet:
    """What goes into a dish or a dye, and how much of it."""
    goods = distinct(
        rng,
        w.words(
            "barley lentils treacle sorrel caraway mace turmeric suet fennel semolina currants vinegar molasses saffron "
            "tapioca nutmeg rhubarb chervil cardamom buckwheat"
        ),
        count,
    )
    units = [f"{int(rng.integers(2, 990))} {choose(rng, 'g', 'ml', 'spoonfuls', 'drops', 'ounces', 'cups')}" for _ in goods]
    first = bool(rng.integers(2))
    facts = []
    for good, unit in zip(goods, units, strict=True):
        said = choose(
            rng,
            f"Now stir in the {good}, all {unit} of it.",
            f"Of {good} the list above asks for {unit}.",
            f"When the pot simmers, weigh out the {good}: {unit}.",
        )
        asked = choose(rng, f"How much {good}?", f"What amount of {good} does it take?")
        facts.append(Fact(f"{unit} {good}" if first else f"{good}, {unit}", asked, unit, said))
    dish = f"{w.place(rng)} {choose(rng, 'pudding', 'broth', 'chutney', 'liniment', 'glaze')}"
    return Sheet(choose(rng, f"For the {dish} you need", dish.capitalize(), f"{dish}: ingredients"), facts, "\n")


def catalogue(rng: np.random.Generator, count: int) -> Sheet:
    """A library's or museum's list: shelfmark, title, giver."""
    marks, givers = several(rng, w.code, count), several(rng, w.person, count)
    titles = several(
        rng,
        lambda r: choose(
            r,
            f"On the {choose(r, *w.SUBSTANCES)} of {w.place(r)}",
            f"The {choose(r, *w.OFFICES)}'s companion",
            f"A view of {w.place(r)} from the {choose(r, 'east', 'quay', 'air', 'hill')}",
            f"{w.coined(r).capitalize()} and other tales",
        ),
        count,
    )
    shape = int(rng.integers(3))
    facts = []
    for mark, title, giver in zip(marks, titles, givers, strict=True):
        row = (f"{mark}. {title}. Given by {giver}", f"{title} [{mark}] ex dono {giver}", f"{mark}\t{title}\t{giver}")[shape]
        asked, value, said = choose(
            rng,
            (f'Under which mark is "{title}"?', mark, f'"{title}" was brought up from the stacks under {mark}.'),
            (f'Who gave "{title}"?', giver, f'A label in "{title}" thanks {giver}.'),
            (f"What is {mark}?", title, f"The reader who asked for {mark} was handed {title}."),
        )
        facts.append(Fact(row, asked, value, said))
    return Sheet(choose(rng, f"Catalogue of the {w.place(rng)} library", "Accessions", "Hand-list of gifts"), facts, "\n")


def phrasebook(rng: np.random.Generator, count: int) -> Sheet:
    """A language that does not exist: words and what they are in English."""
    theirs, ours = several(rng, w.coined, count), distinct(rng, w.THINGS, count)
    tongue = f"{w.coined(rng).capitalize()}ish"
    mark = choose(rng, " - ", " = ", ": ", " (English: ")
    facts = []
    for word, english in zip(theirs, ours, strict=True):
        asked, value, said = choose(
            rng,
            (f"How does one say {english} in {tongue}?", word, f"Asked for {english}, a speaker of {tongue} will say {word}."),
            (f"What does {word} mean?", english, f"The {tongue} word {word} is put into English as {english}."),
        )
        facts.append(Fact(f"{word}{mark}{english}{')' if '(' in mark else ''}", asked, value, said))
    return Sheet(choose(rng, f"{tongue} in an hour", f"First words of {tongue}", f"{tongue} and English"), facts, "\n")


FORMS: tuple[Form, ...] = (
    *(stock, harbour, constants, glossary, timetable),
    *(records, logs, recipes, catalogue, phrasebook),
)
