"""From a spec to sequences: tokens against the tokenizer itself, the cache, folders of tokens carried elsewhere."""

import json
import random
import shutil

import numpy as np
import pytest
from tiny_lm import VOCABULARY, make_tokenizer

from models.tokenizer import byte_tokenizer
from nha_eval.errors import UserError
from nha_eval.text import TextSpec, open_text, tokens
from nha_eval.text.documents import pieces
from nha_eval.text.tokens import tokenizer_digest

WORDS = VOCABULARY.split()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))


def write_books(folder, count=60, start=0, words=200):
    folder.mkdir(exist_ok=True)
    texts = {}
    for i in range(start, start + count):
        rng = random.Random(i)
        # Numbers among the words, so that no two books share five words in a row.
        texts[f"{i:03}.txt"] = " ".join(f"{rng.choice(WORDS)} {rng.randint(0, 9999)}" for _ in range(words))
        (folder / f"{i:03}.txt").write_text(texts[f"{i:03}.txt"])
    return texts


@pytest.fixture
def books(tmp_path):
    return tmp_path / "books", write_books(tmp_path / "books")


def everything(text):
    return sorted(document for split in text.tokens.splits for document in decoded(text, split))


def decoded(text, split):
    row, separator = text.tokens.splits[split], text.separator
    ends = np.flatnonzero(row == separator)
    assert ends[-1] == len(row) - 1
    return [text.tokenizer.decode(part[:-1]) for part in np.split(row, ends[:-1] + 1)]


def test_the_splits_tokens_are_the_documents(books, tokenizer):
    folder, texts = books
    text = open_text(TextSpec(source=str(folder), length=64, heldout_share=0.05), tokenizer)
    parts = {split: decoded(text, split) for split in ("train", "heldout", "unseen")}
    assert everything(text) == sorted(texts.values())
    assert all(parts.values()) and text.separator == tokenizer.eos_token_id
    first = text.tokens.splits["train"]
    own = tokenizer(parts["train"][0], add_special_tokens=False)["input_ids"]
    assert first[: len(own)].tolist() == own and first.dtype == np.uint16
    assert text.heldout(32, 3)[1]["input_ids"].tolist() == text.tokens.splits["heldout"][32:64].tolist()
    assert text.unseen(n=2)[0]["input_ids"].tolist() == text.tokens.splits["unseen"][:64].tolist()
    assert len(text.train) == len(first) // 64 and len(text.training(items=5)) == 5
    assert len(text.heldout()) == len(text.tokens.splits["heldout"]) // 64


def test_the_record_counts_what_is_there(books, tokenizer):
    folder, texts = books
    (folder / "copy.txt").write_text(texts["001.txt"])
    text = open_text(TextSpec(source=str(folder), length=64), tokenizer)
    about = json.loads(json.dumps(text.about))
    assert about["sources"][0]["files"] == 61 and about["sources"][0]["licence"] == "not stated"
    assert about["removed"]["duplicates"] == 1
    for split, row in text.tokens.splits.items():
        assert about["splits"][split]["tokens"] == len(row)
        assert about["splits"][split]["documents"] == (row == text.separator).sum()
    assert sum(part["characters"] for part in about["splits"].values()) == sum(map(len, texts.values()))
    assert about["tokens_by_source"] == {str(folder): sum(map(len, text.tokens.splits.values()))}
    assert about["spec"]["length"] == 64 and about["folder"] == text.tokens.folder.name


def test_a_second_time_nothing_is_read_or_tokenised(books, tokenizer, monkeypatch):
    folder, _ = books
    first = open_text(TextSpec(source=str(folder), length=64), tokenizer)
    monkeypatch.setattr(tokens, "write_tokens", None)
    monkeypatch.setattr("nha_eval.text.local.read_file", None)
    again = open_text(TextSpec(source=str(folder), length=32, seed=4, packing="documents", recall_share=0.5), tokenizer)
    assert again.tokens.folder == first.tokens.folder


@pytest.mark.parametrize("change", ["text", "tokenizer", "split", "separator"])
def test_what_decides_the_tokens_makes_others(books, tokenizer, change):
    folder, _ = books
    spec = TextSpec(source=str(folder), length=64)
    first = open_text(spec, tokenizer)
    if change == "text":
        (folder / "000.txt").write_text("something else")
    if change == "split":
        spec = TextSpec(source=str(folder), length=64, heldout_share=0.1)
    if change == "separator":
        spec = TextSpec(source=str(folder), length=64, separator="a")
    other = byte_tokenizer(100) if change == "tokenizer" else tokenizer
    assert open_text(spec, other).tokens.folder != first.tokens.folder


def test_a_tokenizer_is_known_by_what_it_does(tokenizer):
    from tokenizers import normalizers

    known = tokenizer_digest(tokenizer)
    tokenizer("a", truncation=True, max_length=1)
    assert tokenizer_digest(tokenizer) == known
    other = make_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert other.get_vocab() == tokenizer.get_vocab() and tokenizer_digest(other) != known


def test_the_same_documents_are_held_out_with_any_tokenizer(books, tokenizer):
    folder, _ = books
    spec = TextSpec(source=str(folder), length=64)
    one, two = open_text(spec, tokenizer), open_text(spec, byte_tokenizer(100))
    for split in ("train", "heldout", "unseen"):
        assert decoded(one, split) == decoded(two, split)


def test_special_tokens_named_in_a_text_are_letters(tmp_path, tokenizer):
    texts = write_books(tmp_path / "books", 5)
    (tmp_path / "books" / "trap.txt").write_text("before <|end|> after" + texts["000.txt"][::-1])
    text = open_text(TextSpec(source=str(tmp_path / "books"), length=64), tokenizer)
    rows = list(text.tokens.splits.values())
    assert sum((row == tokenizer.eos_token_id).sum() for row in rows) == 6
    assert any("before <|end|> after" in document for split in text.tokens.splits for document in decoded(text, split))


def test_long_documents_are_tokenised_in_pieces(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE", 300)
    monkeypatch.setattr(tokens, "BATCH", 3)
    texts = write_books(tmp_path / "books", 12)
    text = open_text(TextSpec(source=str(tmp_path / "books"), length=64), tokenizer)
    assert everything(text) == sorted(texts.values())
    document = decoded(text, "unseen")[0]
    own = [i for piece in pieces(document, 300) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    assert text.tokens.splits["unseen"][: len(own)].tolist() == own


def test_a_large_vocabulary_takes_wider_numbers(books, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 70_000)
    text = open_text(TextSpec(source=str(books[0]), length=64), tokenizer)
    assert text.tokens.splits["train"].dtype == np.uint32


def test_a_folder_of_tokens_knows_what_stands_between_its_documents(books, tokenizer):
    made = open_text(TextSpec(source=str(books[0]), length=64, separator="a"), tokenizer)
    there = open_text(TextSpec(source=str(made.tokens.folder), length=64), tokenizer)
    assert there.separator == made.separator == tokenizer.convert_tokens_to_ids("a") != tokenizer.eos_token_id


def test_a_folder_of_tokens_is_a_source_elsewhere(books, tokenizer, tmp_path, monkeypatch, capsys):
    first = open_text(TextSpec(source=str(books[0]), length=64, seed=2), tokenizer)
    carried = tmp_path / "carried"
    shutil.copytree(first.tokens.folder, carried)
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "another"))
    shutil.rmtree(books[0])
    there = open_text(TextSpec(source=str(carried), length=64, seed=2, heldout_share=0.2), tokenizer)
    assert there.train[3]["input_ids"].tolist() == first.train[3]["input_ids"].tolist()
    assert there.about["sources"] == first.about["sources"]
    assert "heldout_share is not applied to it" in capsys.readouterr().err

    def told(spec, with_tokenizer=tokenizer):
        with pytest.raises(UserError) as problem:
            open_text(spec, with_tokenizer)
        return str(problem.value)

    assert "tokens of another tokenizer than" in told(TextSpec(source=str(carried)), byte_tokenizer(100))
    assert "between documents, not" in told(TextSpec(source=str(carried), separator="a"))
    assert "stands alone" in told(TextSpec(source=[str(carried), "debian"]))
    np.save(carried / "unseen.npy", np.arange(3, dtype=np.uint16))
    assert "its files are not those that about.json tells of" in told(TextSpec(source=str(carried)))
    (carried / "unseen.npy").write_bytes(b"junk")
    assert "this is no whole folder of tokens" in told(TextSpec(source=str(carried)))


def test_a_models_own_text_is_for_training_alone(books, tokenizer, tmp_path):
    folder, _ = books
    own = write_books(tmp_path / "own", 30, start=500)
    lines = [json.dumps({"text": text, "seed": 0}) for text in own.values()]
    (tmp_path / "self.jsonl").write_text("\n".join(lines) + "\n")
    spec = TextSpec(source=str(folder), length=64)
    plain = open_text(spec, tokenizer)
    mixed = open_text(spec.model_copy(update={"self_text": str(tmp_path / "self.jsonl")}), tokenizer)
    for split in ("heldout", "unseen"):
        assert decoded(mixed, split) == decoded(plain, split)
    assert sorted(decoded(mixed, "train")) == sorted([*decoded(plain, "train"), *own.values()])
    with pytest.raises(UserError, match="no such self_text"):
        open_text(TextSpec(source=str(folder), self_text=str(tmp_path / "none.jsonl")), tokenizer)


@pytest.mark.parametrize("packing", ["blocks", "documents"])
def test_recall_text_is_mixed_in_and_resumes(books, tokenizer, packing):
    spec = TextSpec(source=str(books[0]), length=300, recall_share=0.5, packing=packing, seed=7)
    first, again = (open_text(spec, tokenizer).training(items=12) for _ in range(2))
    whole = [first[i] for i in range(12)]
    keys = {"input_ids"} if packing == "blocks" else {"input_ids", "position_ids", "labels"}
    assert all(set(item) == keys and all(values.shape == (300,) for values in item.values()) for item in whole)
    for i in (11, 4, 5):
        assert all((again[i][key] == whole[i][key]).all() for key in keys)
    # The books hold words and numbers alone, in which no sentence ends.
    made = ["\n" in tokenizer.decode(item["input_ids"]) for item in whole]
    assert made == [bool(i % 2) for i in range(12)]
    other = open_text(spec.model_copy(update={"seed": 8}), tokenizer).training(items=12)
    assert (other[1]["input_ids"] != whole[1]["input_ids"]).any()


def test_tokenizers_that_cannot_be_used_are_one_line(books, tokenizer):
    with pytest.raises(UserError, match=r"separator '<x>': the tokenizer has no such token \(special ones: <\|end\|>\)"):
        open_text(TextSpec(source=str(books[0]), separator="<x>"), tokenizer)
    plain = make_tokenizer()
    plain.eos_token = None
    with pytest.raises(UserError, match="has no EOS token"):
        open_text(TextSpec(source=str(books[0])), plain)

    class Slow:
        is_fast, eos_token_id = False, 1

    with pytest.raises(UserError, match="Slow is no fast tokenizer"):
        open_text(TextSpec(source=str(books[0])), Slow())


def test_how_the_tokenizer_was_called_before_does_not_matter(books, tokenizer):
    spec = TextSpec(source=str(books[0]), length=64)
    first = open_text(spec, tokenizer).tokens.folder
    tokenizer(["one two", "three"], padding=True, truncation=True, max_length=2)
    assert open_text(spec, tokenizer).tokens.folder == first


def test_a_cache_that_cannot_be_written_is_one_line(books, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set NHA_EVAL_CACHE to a folder that can be written"):
        open_text(TextSpec(source=str(books[0])), tokenizer)


def test_tokens_are_there_whole_or_not_at_all(books, tokenizer, monkeypatch, tmp_path):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(tokens.json, "dumps", lambda *a, real=json.dumps, **k: stop() if k.get("indent") else real(*a, **k))
        with pytest.raises(KeyboardInterrupt):
            open_text(TextSpec(source=str(books[0])), tokenizer)
    assert not [path for path in (tmp_path / "cache" / "text").iterdir() if path.is_dir()]
    assert len(open_text(TextSpec(source=str(books[0]), length=64), tokenizer).train)
