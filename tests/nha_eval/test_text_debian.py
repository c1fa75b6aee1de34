"""The source `debian`: what is prose, and packages made by the test, from a repository that apt reads as any other."""

import gzip
import hashlib
import random
import shutil
import subprocess

import pytest

from nha_eval.errors import UserError
from nha_eval.text import debian
from nha_eval.text.apt import Apt, members
from nha_eval.text.debian import PACKAGES, Package, Repeats, build, debian_corpus
from nha_eval.text.prose import is_prose, join_entries, strip_html, tidy, unwrap


def prose(number, paragraphs=6):
    """English in its form; of five words in a row at least one is made up, and another in every text."""
    rng = random.Random(number)

    def word():
        return "".join(rng.choice(("ba", "lo", "mi", "ren", "tu", "sa")) for _ in range(3))

    def sentence():
        return (
            f"The {word()} of the {word()} was {word()} in the {word()}, and {word()} had said that {word()} would be {word()} "
            f"when {word()} came to the {word()}."
        )

    return [" ".join(sentence() for _ in range(3)) for _ in range(paragraphs)]


def test_html_gives_its_text_without_navigation():
    page = """<html><head><title>T</title><style>p {}</style></head><body>
      <div class="sphinxsidebar"><div>inner</div> menu</div><nav>next <a>page</a></nav>
      <p><a>Prev</a> | <a>Up</a> | <a>Next</a></p><p>Next: Lakes, Up: Water</p>
      <h1>Of rivers<a class="headerlink" href="#x">¶</a></h1>
      <p>One &amp; the
         same&nbsp;line.<br>Next.<p>Unclosed <em>words</em>here<img src=x alt="no"> end.
      <ul><li>item</ul><table><tr><td>cell</table><script>var x = "<p>no</p>";</script>
      <pre>kept
  as is</pre><footer>foot</footer></body></html>"""
    assert strip_html(page) == "Of rivers\n\nOne & the same line.\nNext.\n\nUnclosed wordshere end.\n\nitem\n\nkept\n  as is"


def test_a_page_laid_out_with_a_table_gives_its_text():
    page = f"<body><p>menu</p><table><tr><td>{''.join(f'<p>{paragraph}' for paragraph in prose(3))}</table></body>"
    assert strip_html(page) == "\n\n".join(["menu", *prose(3)])


def test_lines_broken_at_a_width_are_joined_and_others_stay():
    wrapped = (
        "This is a paragraph whose lines were broken at a width of\nsixty characters, as on a typewriter, and it goes\non."
    )
    assert unwrap(wrapped) == wrapped.replace("\n", " ")
    for kept in ("a short line\nand another", "- first item of a list that is quite long, really, so long\n- second item", "x"):
        assert unwrap(kept) == kept
    code = "for name in the_names_that_were_given_to_this_function_here:\n    print(name)"
    assert unwrap(code) == code
    assert unwrap(f"{wrapped}\n\n{code}") == wrapped.replace("\n", " ") + "\n\n" + code
    assert tidy("a \t\n\n\n\n b\x07\xa0c  \n") == "a\n\n b c"


def test_a_dictionarys_entries_are_joined():
    entry = 'Arpine \\Ar"pine\\, n.\n   An arpent. [Obs.] --Webster\n   (1623).\n   [1913 Webster]'
    text = f"{entry}\n\nArquated, a.\n   Curved. [R.] [PJC]"
    assert join_entries(text) == 'Arpine \\Ar"pine\\, n. An arpent. --Webster (1623).\n\nArquated, a. Curved.'


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("\n\n".join(prose(1)), True),
        ("\n\n".join(prose(1))[:900], False),
        ("\n".join(f"0x{i:08x}  {i * 7919}  {i}" for i in range(200)), False),
        ("\n".join(f"    result.append(compute(item_{i}, other_{i}))" for i in range(200)), False),
        (" ".join(["Der Fluss stieg in der Nacht und nahm am Morgen die Bruecke mit."] * 40), False),
        ("\n".join(["the words of a list", "that is not in lines", "as prose is"] * 60), False),
    ],
    ids=["prose", "short", "numbers", "code", "german", "short lines"],
)
def test_what_counts_as_prose(text, is_it):
    assert is_prose(text) is is_it


def test_text_that_was_there_before_is_told():
    repeats = Repeats()
    one, two = "\n".join(prose(1, 20)), "\n".join(prose(2, 20))
    assert not repeats.saw(one) and repeats.saw(one[500:]) and not repeats.saw(two) and repeats.saw(f"{one} {two}")


needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None or shutil.which("apt-get") is None, reason="needs dpkg and apt"
)


def make_deb(folder, name, files, version="1.2-3"):
    root = folder / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <n@example.org>\n"
        "Description: made by a test\n"
    )
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    deb = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(root), str(deb)], check=True, capture_output=True)
    return deb


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder that apt takes for its only archive; gives back a function that adds a package."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (tmp_path / "sources").mkdir()
    source = tmp_path / "sources" / "test.list"
    source.write_text(f"deb [trusted=yes] file:{folder} ./\n")
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "{source}";\nDir::Etc::sourceparts "-";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    entries = []

    def add(name, files):
        deb = make_deb(folder, name, files)
        content = deb.read_bytes()
        entries.append(
            f"Package: {name}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: Nobody <n@example.org>\nFilename: ./{deb.name}\n"
            f"Size: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\nDescription: made by a test\n"
        )
        (folder / "Packages").write_text("\n".join(entries))
        return content

    (folder / "Packages").write_text("")
    return add


@needs_dpkg
def test_packages_become_documents_and_a_manifest(repository, tmp_path, monkeypatch, capsys):
    pages = {i: "".join(f"<p>{paragraph}</p>" for paragraph in prose(i)) for i in range(4)}
    content = repository(
        "one-doc",
        {
            "usr/share/doc/one-doc/html/b.html": f"<html><body><nav>menu</nav>{pages[1]}</body></html>",
            "usr/share/doc/one-doc/html/a.html.gz": gzip.compress(f"<body>{pages[0]}</body>".encode()),
            "usr/share/doc/one-doc/html/all.html": f"<body>{pages[0]}{pages[1]}</body>",
            "usr/share/doc/one-doc/html/_sources/a.rst.txt": "\n\n".join(prose(0)),
            "usr/share/doc/one-doc/changelog.txt": "\n\n".join(prose(9)),
            "usr/share/doc/one-doc/short.txt": "too short",
            "usr/share/doc/one-doc/broken.txt.gz": b"\x1f\x8bno",
            "usr/bin/tool": "\n\n".join(prose(5)),
        },
    )
    repository("two-dict", {"usr/share/dictd/two.dict.dz": gzip.compress(("\n\n".join(prose(11, 60))).encode())})
    packages = (Package("one-doc", "GFDL", "a book"), Package("gone-doc", "MIT", "gone"), Package("two-dict", "GPL", "words"))
    monkeypatch.setattr(debian, "PACKAGES", packages)
    corpus = debian_corpus(10**9)
    documents = {document.name: document.text for document in corpus.documents()}
    one, two = "one-doc/usr/share/doc/one-doc/html", "two-dict/usr/share/dictd/two.dict.dz"
    assert documents[f"{one}/a.html.gz"] == "\n\n".join(prose(0))
    assert documents[f"{one}/b.html"] == "\n\n".join(prose(1))
    # The single page says nothing that the others have not said; a dictionary is cut.
    assert sorted(documents)[:3] == [f"{one}/a.html.gz", f"{one}/b.html", two]
    assert all(len(text) <= 20_000 for text in documents.values())
    about = corpus.about
    assert about["licence"] == "GFDL; GPL" and about["missing"] == ["gone-doc"]
    first = about["packages"][0]
    assert (first["name"], first["version"], first["documents"]) == ("one-doc", "1.2-3", 2)
    assert first["sha256"] == hashlib.sha256(content).hexdigest() and first["bytes"] == len(content)
    assert first["characters"] == len(documents[f"{one}/a.html.gz"]) + len(documents[f"{one}/b.html"])
    assert "this release has no gone-doc" in capsys.readouterr().err
    # Kept: with the archive gone the same is there, and not more of it than asked for.
    shutil.rmtree(tmp_path / "archive")
    again = debian_corpus(10**9)
    assert again.digest == corpus.digest and {d.name: d.text for d in again.documents()} == documents
    fewer = debian_corpus(len(documents[f"{one}/a.html.gz"]) + 10)
    assert len(list(fewer.documents())) == 1 and fewer.digest != corpus.digest
    assert not [path.name for path in (tmp_path / "cache" / "text").iterdir() if "partial" in path.name]


@needs_dpkg
def test_a_package_may_be_read_in_part(repository, tmp_path):
    # The second tongue says the same, and is a repeat where both are read.
    files = {f"usr/share/doc/one/{tongue}/{i}.txt": "\n\n".join(prose(i)) for i in range(6) for tongue in ("en", "xx")}
    repository("one", files)

    def read(**settings):
        return [document.name for document in build([Package("one", "MIT", "a book", **settings)], tmp_path / "scratch")[0]]

    assert read(only="/en/") == [f"one/usr/share/doc/one/en/{i}.txt" for i in range(6)]
    assert len(read()) == 6


@needs_dpkg
def test_an_archive_with_none_of_the_packages_is_one_line(repository, tmp_path):
    repository("other", {"usr/share/doc/other/a.txt": "x"})
    with pytest.raises(UserError, match="none of its 1 packages with text in it: give a folder of text"):
        build([Package("one-doc", "GFDL", "a book")], tmp_path)


@needs_dpkg
def test_no_archive_and_no_apt_are_one_line(repository, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "archive")
    with pytest.raises(UserError, match=r"apt can get no list of packages \(.+\): check the network, or give a folder"):
        Apt(tmp_path / "scratch")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs apt-get and dpkg-deb, which this machine has not: give a folder of text"):
        Apt(tmp_path / "scratch")


@needs_dpkg
def test_a_broken_package_is_one_line(tmp_path):
    deb = make_deb(tmp_path, "one", {"a.txt": "x" * 100_000})
    assert dict(members(deb, lambda name: name == "a.txt")) == {"a.txt": b"x" * 100_000}
    deb.write_bytes(deb.read_bytes()[:-200])
    with pytest.raises(UserError, match="is no whole package"):
        list(members(deb, lambda name: True))


def test_every_package_names_a_free_licence():
    assert len({package.name for package in PACKAGES}) == len(PACKAGES) >= 15
    for package in PACKAGES:
        assert package.licence and package.what
        assert not any(word in package.licence.lower() for word in ("non-free", "noncommercial", "-nc", "-nd", "unknown"))
