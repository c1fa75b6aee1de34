"""Needles in filler text: random words kept in differently worded sentences, at evenly spread depths.

The question repeats the sentence's words up to the answer, which is drawn at random, so it cannot be guessed. Each needle of a
context has a wording of its own: SmolLM2-135M mixes up needles worded alike.

    ... A dry lake shone near the old gate. The secret word of the museum is copper. The thin door lay ...

    The secret word of the museum is  ->  copper
"""

import numpy as np

from tasks.counting import count_tokens
from tasks.filler import pick_distinct, spread, words
from tasks.synthetic import Context, Question

MIN_LENGTH = 256
NEEDS: tuple[str, ...] = ()

PLACES = words(
    "library harbor museum castle garden bakery station school hospital theater market church tower bridge "
    "factory hotel farm mill palace prison stadium airport temple bank studio kitchen basement attic garage "
    "cottage chapel archive vault gallery clinic cinema cabin tunnel"
)
WORDS = words(
    "apple river candle silver winter marble copper thunder ladder pepper lemon tiger velvet anchor button desert "
    "engine feather hammer island jacket kettle lantern magnet needle orange pencil rabbit saddle ticket umbrella "
    "violin yellow zebra cotton dragon forest ginger honey ivory jungle ribbon salmon turtle walnut willow wagon "
    "bottle cherry diamond eagle falcon glacier iron jewel meadow mirror ocean pearl quartz rocket shadow whistle "
    "carpet compass cradle crystal cactus barrel almond banana mango olive"
)


CUES = (
    "The secret word of the {} is",
    "The password for the {} door is",
    "The old map of the {} is marked with the word",
    "The ship painted on the wall of the {} is named",
    "The owner of the {} has a cat called",
    "Somebody carved into the gate of the {} the name",
    "The code name for the journey to the {} was",
    "The box hidden behind the {} contains a picture of a",
)


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """`questions` needles, each worded differently and asked once; raises ValueError where there are more than wordings."""
    if questions > len(CUES):
        raise ValueError(f"needle: {questions} questions asked, at most {len(CUES)} possible")
    places = pick_distinct(rng, PLACES, questions)
    words = pick_distinct(rng, WORDS, questions)
    cues = [cue.format(place) for cue, place in zip(pick_distinct(rng, list(CUES), questions), places, strict=True)]
    tail = max(count_tokens(f"{cue} {word}") for cue, word in zip(cues, words, strict=True))
    text = spread(rng, [f"{cue} {word}." for cue, word in zip(cues, words, strict=True)], length - tail)
    asked = [
        Question(f"\n\n{cue}", [word], depth, text.after(cue))
        for cue, word, depth in zip(cues, words, text.depths, strict=True)
    ]
    return Context(text.text, asked)
