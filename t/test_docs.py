"""The documentation says what the code does."""

import pathlib
import re
import subprocess

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
    page = (ROOT / "docs/directives/http.md").read_text()
    assert known and not {name for name in known if f"`${name}`" not in page}


def test_every_folder_has_its_readme():
    assert not [str(folder) for folder in FOLDERS if not (folder / "README.md").exists()]


def test_every_command_helps():
    """--help is answered with what the command is for, and nothing is done."""
    for command in (ROOT / "scripts").iterdir():
        if command.is_file() and command.stat().st_mode & 0o111:
            done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=20)
            assert done.returncode == 0, command
            assert "usage" in done.stdout.lower(), command


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not link.startswith("/"):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
