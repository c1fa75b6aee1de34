"""Documents of this project's own writing in the schema of the hub's data sets, and a tokenizer whose tokens are words.

Words are counted by eye, so that a cut can be worked out by hand. Written as JSON Lines they go the way that the hub's data
goes.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FDA = [
    {
        "doc_id": "K1",
        "file_name": "K1.txt",
        "key": "device name",
        "value": " Lumo Pump ",
        "text": "a b c d e f g h i j k l Device Name: Lumo Pump m n o p q r s t u v w x.\nDevice name:",
    },
    {
        "doc_id": "K1",
        "file_name": "K1.txt",
        "key": "maker",
        "value": "Orla",
        "text": "a b c d e f g h i j k l made by Orla m n o p q r s t u v w x (the maker)\nMaker:",
    },
    {"doc_id": "K2", "file_name": "K2.txt", "key": "class", "value": "2", "text": "class 2 of them\nclass:"},
]
SWDE = [
    {
        "doc_id": "m1",
        "file_name": "m1.htm",
        "key": "year",
        "value": "1983",
        "text": "The Quiet Harbour was made in 1983 by Ada Lind. \n\nSummary of information above...\ngenre: drama\nyear:",
    }
]
SQUAD = [
    {
        "doc_id": "s1",
        "title": "Mills",
        "context": "The mill was built by Harald Senn. It still stands. Question: Who built the mill?",
        "question": "Who built the mill?",
        "text": " The mill was built by Harald Senn. It still stands. The mill was built by ",
        "value": "Harald Senn",
    }
]
NQ = [
    {
        "context": "one two three four five six the red bridge was opened in spring seven eight nine ten eleven twelve.",
        "question": "the bridge was opened in",
        "orig_question": "when was the bridge opened:",
        "answers": ["spring", "the spring"],
    }
]
TRIVIAQA = [
    {
        "context": "[DOC] [TLE] Vesper [PAR] Vesper is a ship. It sank near Tarn in winter after a long voyage to the north",
        "question": "Vesper sank near the town of",
        "orig_question": "Near which town did Vesper sink?",
        "answers": ["Tarn", "Tarn Bay"],
    }
]
DROP = [
    {
        "context": "The home side scored 7 points, then 3 more. The visitors scored none.",
        "question": "The number of points scored by the home side is",
        "orig_question": "How many points did the home side score?",
        "answers": ["10"],
    }
]
ESSAYS = [
    {"text": " ".join(f"Essay {number} says in line {i} that nothing follows." for i in range(40))} for number in range(3)
]
SQUAD_ARTICLES = {
    "version": "v2.0",
    "data": [
        {
            "title": f"Town {town}",
            "paragraphs": [
                {
                    "context": f"Town {town} has mill number {mill}, which Ada{town}x{mill} Lind built in 17{town}{mill}.",
                    "qas": [
                        {
                            "id": f"{town}-{mill}-a",
                            "question": f"Who built mill {mill} of town {town}?",
                            "answers": [
                                {"text": f"Ada{town}x{mill} Lind", "answer_start": 30},
                                {"text": f"Ada{town}x{mill}", "answer_start": 30},
                            ],
                            "is_impossible": False,
                        },
                        {"id": f"{town}-{mill}-b", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
                for mill in range(4)
            ],
        }
        for town in range(3)
    ],
}
HOTPOT = [
    {
        "_id": str(i),
        "question": f"In which land is the town of ship {i}?",
        "answer": f"Orlen{i}",
        "context": [
            [f"Ship {i}", [f"Ship {i} was built in Tarn{i}.", " It sank."]],
            [f"Tarn{i}", [f"Tarn{i} is a town in Orlen{i}."]],
            ["Aside", ["Nothing is known of it."]],
        ],
    }
    for i in range(6)
]
DOCS = {
    **{"fda": FDA, "swde": SWDE, "squad": SQUAD, "triviaqa": TRIVIAQA, "drop": DROP},
    **{"nq_512": NQ, "nq_1024": NQ, "nq_2048": NQ},
}


def write(path: Path, docs: list[dict]) -> str:
    """The documents as JSON Lines; gives the path back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    return str(path)


def write_all(folder: Path) -> dict[str, str]:
    """A file for each data set; name -> path."""
    paths = {name: write(folder / f"{name}.jsonl", docs) for name, docs in {**DOCS, "essays": ESSAYS}.items()}
    for name, content in (("ruler_squad", SQUAD_ARTICLES), ("hotpotqa", HOTPOT)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        paths[name] = str(folder / f"{name}.json")
    return paths


def word_tokenizer(begin: str | None = None) -> PreTrainedTokenizerFast:
    """A token for each word between spaces; with `begin`, that token before every text, as Llama has it."""
    words = {word for docs in DOCS.values() for doc in docs for value in doc.values() for word in _words(value)}
    vocabulary = {word: number for number, word in enumerate(["[unk]", *([begin] if begin else []), *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[unk]", bos_token=begin, clean_up_tokenization_spaces=False
    )


def _words(value) -> list[str]:
    return [word for text in (value if isinstance(value, list) else [value]) for word in text.split()]
