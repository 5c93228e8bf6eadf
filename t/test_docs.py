"""The documentation says what the code does."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = [*(p for p in (ROOT / "ngx_commerce_module").iterdir() if p.is_dir()),
           *(ROOT / name for name in ("api", "sql", "conf", "scripts", "t", "demo", "docs"))]


def sources():
    return [p.read_text() for p in (ROOT / "ngx_commerce_module").glob("*/*.c")]


def test_the_reference_is_of_this_contract():
    """Again: scripts/contract reference > docs/api.md"""
    done = subprocess.run([ROOT / "scripts/contract", "reference"], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "docs/api.md").read_text()


def test_the_contract_fits_the_functions():
    done = subprocess.run([ROOT / "scripts/contract", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_directive_has_its_page_and_every_page_its_directive():
    """Syntax, Default and Context for each."""
    known = {name for text in sources()
             for name in re.findall(r'\{ ngx_string\("(commerce_\w+)"\),\n\s+NGX_HTTP', text)}
    documented = {}
    for page in (ROOT / "docs/directives").glob("*.md"):
        for name, text in re.findall(r"^## (commerce_\w+)\n(.*?)(?=^#|\Z)", page.read_text(), re.M | re.S):
            documented[name] = text
    assert len(known) > 15
    assert known == set(documented)
    for name, text in documented.items():
        for field in ("Syntax", "Default", "Context"):
            assert re.search(rf"{field}\W", text), f"{name} lacks {field}"


def test_every_variable_is_documented():
    known = {name for text in sources()
             for name in re.findall(r'\{ ngx_string\("(commerce_\w+)"\), NULL, \w+,', text)}
    pages = "".join(page.read_text() for page in (ROOT / "docs/directives").glob("*.md"))
    assert known and not {name for name in known
                          if f"`${name}NAME`" not in pages and f"`${name}`" not in pages}


def test_every_page_is_listed():
    text = (ROOT / "docs/README.md").read_text()
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and f"({page.name})" not in text]


def test_every_folder_has_its_readme():
    assert not [str(folder) for folder in FOLDERS if not (folder / "README.md").exists()]


# t/README.md: a heading, and how many rows its table has at least
TABLES = {"What a checkout must hold": 20, "What a shop must hold": 28, "What the guard must hold": 29,
          "What events, payments and messages must hold": 35}


@pytest.mark.parametrize("heading", TABLES)
def test_the_tests_of_a_table_are_there(heading):
    """Each row names tests, and there are such tests."""
    section = (ROOT / "t/README.md").read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = [row for row in re.findall(r"^\|(.*)\|$", section, re.M) if not re.match(r" *(-+ *\||\| *holds *\|)", row)]
    assert len(rows) >= TABLES[heading]
    for row in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / "t" / file).read_text(), re.M), f"there is no {file}::{test}"


def test_the_invariants_are_twenty():
    assert re.findall(r"^\| (\d+) \|", (ROOT / "t/README.md").read_text(), re.M) == [str(n) for n in range(1, 21)]


def test_every_table_of_tests_is_looked_at():
    headings = [section.partition("\n")[0] for section in re.split(r"^## ", (ROOT / "t/README.md").read_text(), flags=re.M) if ".py::" in section]
    assert len(headings) == len(TABLES) and all(any(h.startswith(t) for t in TABLES) for h in headings)


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not link.startswith("/"):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
