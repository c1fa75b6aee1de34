"""Forms of the recall text told in sentences: each states a few facts and knows how to ask every one of them back.

A form is a function (rng, count) -> Sheet in FORMS, its name the form's. What stands beside each other in `choose` are wordings
of the same thing. Forms that are tables, lists and code are in `recall_tables`.

    letters(np.random.default_rng(0), 2).facts[0].restated
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nha_eval.text import recall_words as w
from nha_eval.text.recall_words import choose, distinct, several


@dataclass(frozen=True)
class Fact:
    """Something that is stated, and asked back in two ways: a question with its answer, and a sentence that says it again."""

    stated: str
    question: str
    value: str
    restated: str  # holds the value, after what tells which fact it is


@dataclass(frozen=True)
class Sheet:
    """A form filled in. `joint` stands between facts that belong together; None: each may stand by itself among other text."""

    opening: str
    facts: list[Fact]
    joint: str | None = None
    closing: str = ""


Form = Callable[[np.random.Generator, int], Sheet]


def minutes(rng: np.random.Generator, count: int) -> Sheet:
    """Minutes of a meeting: who is to do what."""
    body = f"the {w.place(rng)} {choose(rng, 'Parish Council', 'Rowing Club', 'Allotment Society', 'Housing Trust', 'Choir')}"
    people, acts = several(rng, w.titled, count), distinct(rng, w.ACTS, count)
    facts = [
        Fact(
            choose(
                rng,
                f"It was agreed that {who} would {act}.",
                f"{who} offered to {act}, and the offer was accepted.",
                f"Resolved: {who} to {act} before the next meeting.",
                f"After some discussion the task to {act} fell to {who}.",
                f"ACTION ({who}): {act}.",
            ),
            choose(rng, f"Who was to {act}?", f"Whose task is it to {act}?", f"Who took it on to {act}?"),
            who,
            choose(
                rng,
                f"Matters arising. The promise to {act} had been made by {who}.",
                f"On the question of who would {act}, the chair reminded members that it was {who}.",
                f"Still outstanding: to {act} ({who}).",
            ),
        )
        for who, act in zip(people, acts, strict=True)
    ]
    day = choose(rng, *w.WEEKDAYS)
    opening = choose(
        rng,
        f"Minutes of {body}, {day}, {w.clock(rng)}",
        f"Meeting of {body} held on {day}.",
        f"{body[4:]}: notes of the {day} meeting",
    )
    return Sheet(opening, facts)


def letters(rng: np.random.Generator, count: int) -> Sheet:
    """A letter that says where things were put."""
    things, hides = distinct(rng, w.THINGS, count), distinct(rng, w.HIDES, count)
    sender, reader = several(rng, lambda r: choose(r, *w.GIVEN), 2)
    facts = [
        Fact(
            choose(
                rng,
                f"Before I forget, I left the {thing} {hide}.",
                f"If you need the {thing}, look {hide}.",
                f"The {thing}, by the way, are {hide}; please put them back there.",
                f"You will laugh, but I have taken to keeping the {thing} {hide}.",
                f"Uncle found the {thing} in the hall and moved them, so they are now {hide}.",
            ),
            choose(
                rng,
                f"Where are the {thing}?",
                f"Where did {sender} say the {thing} were?",
                f"Do you know where the {thing} went?",
            ),
            hide,
            choose(
                rng,
                f"Thank you for telling me about the {thing}. I looked {hide}, and there they were.",
                f"As {sender} wrote, the {thing} were {hide}.",
                f"So I went for the {thing}: {hide}, just as your letter has it.",
            ),
        )
        for thing, hide in zip(things, hides, strict=True)
    ]
    opening = choose(
        rng, f"Dear {reader},", f"My dear {reader},", f"{reader}, I write in haste.", f"Letter from {sender} to {reader}"
    )
    return Sheet(opening, facts, closing=choose(rng, f"Yours, {sender}", f"Ever, {sender}", f"With love from {sender}", ""))


def offices(rng: np.random.Generator, count: int) -> Sheet:
    """A chronicle: who held which office in a town."""
    town = w.place(rng)
    people, posts = several(rng, w.person, count), distinct(rng, w.OFFICES, count)
    facts = [
        Fact(
            choose(
                rng,
                f"In those years the {post} of {town} was {who}.",
                f"{who} had been chosen as {post}, against the wishes of the guild.",
                f"The town paid its {post}, one {who}, in firewood.",
                f"{who}, {post}, signed the charter with a cross.",
                f"No one disputed that {who} made a better {post} than the last.",
            ),
            choose(rng, f"Who was the {post}?", f"Name the {post} of {town}.", f"Which person served {town} as {post}?"),
            who,
            choose(
                rng,
                f"The {post} mentioned above, it will be recalled, was {who}.",
                f"As for the {post}, the chronicle names {who}.",
                f"A later hand adds that the {post} had been {who}.",
            ),
        )
        for who, post in zip(people, posts, strict=True)
    ]
    return Sheet(choose(rng, f"A short chronicle of {town}", f"{town} in former times", f"From the annals of {town}."), facts)


def chat(rng: np.random.Generator, count: int) -> Sheet:
    """Messages between two people: numbers given once and asked for again."""
    one, two = several(rng, lambda r: choose(r, *w.GIVEN), 2)
    things = distinct(
        rng,
        (
            *(
                "the gate",
                "the alarm",
                "the router",
                "the locker",
                "the copier",
                "the bike lock",
                "room service",
                "the plumber",
            ),
            *("the garage", "the printer", "the vet", "the taxi firm", "the safe", "the parcel box", "the lift"),
        ),
        count,
    )
    values = several(rng, lambda r: choose(r, str(w.number(r, 4)), w.code(r), str(w.number(r, 5))), count)
    facts = [
        Fact(
            choose(
                rng,
                f"{one}: for {thing} it's {value}",
                f"{one}: ok noted: {thing} = {value}",
                f"{one}: {thing}? they changed it, {value} now",
                f"{one}: use {value} for {thing} please",
            ),
            choose(rng, f"what was it again for {thing}?", f"and {thing}?", f"sorry, lost the one for {thing}"),
            value,
            choose(
                rng,
                f"{two}: remind me, {thing}?\n{one}: {value}",
                f"{two}: scrolled up, {thing} is {value}",
                f"{two}: standing in front of {thing}, help\n{one}: {value}, as I said",
            ),
        )
        for thing, value in zip(things, values, strict=True)
    ]
    return Sheet(choose(rng, f"{one} and {two}", f"#general, {choose(rng, *w.WEEKDAYS)}", f"Chat with {two}"), facts)


def contracts(rng: np.random.Generator, count: int) -> Sheet:
    """An agreement that names its parties and sums once."""
    roles = distinct(
        rng,
        w.words("Lessor Lessee Carrier Consignee Guarantor Purchaser Vendor Licensor Licensee Assignee Depositor Trustee"),
        count,
    )
    firms = [f"{w.place(rng)} {choose(rng, 'Ltd', 'Brothers', 'Holdings', 'and Sons', 'Freight', 'Estates')}" for _ in roles]
    facts = [
        Fact(
            choose(
                rng,
                f'This agreement binds {firm} (hereinafter the "{role}").',
                f'{firm}, referred to in what follows as the "{role}", accepts the terms set out here.',
                f'"{role}" means {firm} and its successors.',
                f"The expression {role} shall denote {firm}.",
            ),
            choose(
                rng, f"Which firm is the {role}?", f"Whom does the word {role} denote?", f"Who acts as {role} under the deed?"
            ),
            firm,
            choose(
                rng,
                f"For the avoidance of doubt, the {role} is {firm}.",
                f"Notices to the {role} shall be addressed to {firm}.",
                f"Signed on behalf of the {role}: {firm}",
            ),
        )
        for role, firm in zip(roles, firms, strict=True)
    ]
    kind = choose(rng, "DEED OF CARRIAGE", "Agreement", "Heads of terms", "MEMORANDUM OF SALE")
    return Sheet(f"{kind} no. {w.code(rng)}", facts)


def whereabouts(rng: np.random.Generator, count: int) -> Sheet:
    """Things that are moved, some twice: asked is where each is now."""
    things = distinct(rng, w.THINGS, count)
    facts = []
    for thing in things:
        first, last = several(rng, w.place, 2)
        once = choose(
            rng,
            f"The {thing} came by cart to {first}.",
            f"Delivered to {first}: the {thing}.",
            f"{first} received the {thing}.",
        )
        then = choose(
            rng,
            f"From {first} the {thing} were sent on to {last}.",
            f"A week later somebody took the {thing} to {last}.",
            f"{last} asked for the {thing} and was given them.",
        )
        moved = bool(rng.integers(2))
        value = last if moved else first
        facts.append(
            Fact(
                f"{once} {then}" if moved else once,
                choose(rng, f"Where are the {thing} now?", f"At which place did the {thing} end up?", f"Who has the {thing}?"),
                value,
                choose(
                    rng,
                    f"When the stock was counted, the {thing} were at {value}.",
                    f"Anyone in want of the {thing} had to go to {value}.",
                    f"The last word on the {thing} is that they lay at {value}.",
                ),
            )
        )
    return Sheet(choose(rng, "Movements of stock", "Carrier's journal", f"Day-book, {w.place(rng)}", "What went where"), facts)


def witnesses(rng: np.random.Generator, count: int) -> Sheet:
    """Statements taken down: what each person saw, and of which colour."""
    people, hues = several(rng, w.titled, count), distinct(rng, w.HUES, count)
    objects = distinct(
        rng,
        w.words("van scarf rucksack canopy scooter parcel caravan dinghy waistcoat tricycle suitcase bonnet parasol"),
        count,
    )
    facts = [
        Fact(
            choose(
                rng,
                f"{who} remembers above all the {hue} {item}.",
                f"According to {who} there was a {item} in the lane, and it was {hue}.",
                f'"A {item}, definitely {hue}," said {who}.',
                f"What {who} saw from the landing was somebody with a {item}, {hue} all over.",
            ),
            choose(rng, f"Of what colour was the {item} that {who} saw?", f"{who} spoke of a {item}. Its colour?"),
            hue,
            choose(
                rng,
                f"Asked once more about the {item}, {who} repeated that it had been {hue}.",
                f"The constable's summary says of the {item} seen by {who}: {hue}.",
                f"In court {who} was shown a {item} and said that the other had been {hue}.",
            ),
        )
        for who, item, hue in zip(people, objects, hues, strict=True)
    ]
    return Sheet(
        choose(rng, "Statements", f"Inquiry into the events at {w.place(rng)}", f"File {w.code(rng)}: what was said"), facts
    )


def laboratory(rng: np.random.Generator, count: int) -> Sheet:
    """A notebook of measurements."""
    samples, values = distinct(rng, w.SUBSTANCES, count), several(rng, w.measure, count)
    facts = [
        Fact(
            choose(
                rng,
                f"Run with {sample} at {w.clock(rng)}: the gauge settled at {value}.",
                f"The {sample} gave {value}, which nobody had expected.",
                f"We then tried {sample}. Reading: {value}.",
                f"{value} for the {sample} (two trials, same result).",
            ),
            choose(
                rng,
                f"What was read for {sample}?",
                f"Which figure did the {sample} give?",
                f"{sample.capitalize()}: what reading?",
            ),
            value,
            choose(
                rng,
                f"Going back over the notebook, the {sample} stands at {value}.",
                f"For comparison, {sample} had shown {value}.",
                f"Table 2 repeats the figure for {sample}: {value}.",
            ),
        )
        for sample, value in zip(samples, values, strict=True)
    ]
    return Sheet(choose(rng, f"Notebook {w.code(rng)}", "Bench notes", f"Trials at {w.place(rng)}", "Series B"), facts)


FORMS: tuple[Form, ...] = (minutes, letters, offices, chat, contracts, whereabouts, witnesses, laboratory)
