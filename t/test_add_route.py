"""docs/add-a-route.md does what it says: a contract file, a SQL function, a reload."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "greetings"


def bundle(source, target):
    done = subprocess.run([ROOT / "scripts/contract", "bundle", source], capture_output=True, text=True, check=True)
    target.write_text(done.stdout)
    return target


def blocks(language):
    page = (ROOT / "docs/add-a-route.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def test_the_page_shows_the_files():
    assert blocks("yaml")[0] in (EXAMPLE / "openapi.yaml").read_text()
    assert blocks("sql")[0] in (EXAMPLE / "greeting.sql").read_text()


def test_a_route_without_c(shop, tmp_path):
    anyone = shop.edge()
    assert anyone.get("/api/v1/greetings/Ada").status_code == 404

    contract = bundle(EXAMPLE / "openapi.yaml", tmp_path / "greetings.json")
    tmp_path.chmod(0o755)
    with shop.db() as db:
        db.execute((EXAMPLE / "greeting.sql").read_text())
    shop.configure(http=f"commerce_contract {contract};")
    shop.reload()

    # a connection of before is the old worker's, which closes it when it likes
    anyone = shop.edge()
    answer = anyone.get("/api/v1/greetings/Ada?times=2")
    name = shop.value("SELECT name FROM shop.tenant WHERE id = 1")
    assert answer.status_code == 200
    assert answer.json() == {"greeting": "Hello Hello Ada", "from": name}

    # what comes by itself
    again = anyone.get("/api/v1/greetings/Ada?times=2", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert anyone.get("/api/greetings/Ada").headers["deprecation"]
    assert anyone.get("/api/v1/greetings/Ada?times=11").json()["errors"][0]["code"] == "maximum"
    assert anyone.get("/api/v1/greetings/Ada?tiems=1").json()["code"] == "unknown-parameter"
    assert anyone.post("/api/v1/greetings/Ada").headers["allow"] == "GET, HEAD, OPTIONS"
    assert anyone.head("/api/v1/greetings/Ada").headers["content-length"] != "0"
    assert anyone.get("/api/v1/greetings/nobody").json()["code"] == "not-found"
    assert shop.edge(tenant="acme").get("/api/v1/greetings/Ada").json()["from"] != name


def test_a_faulty_contract_is_refused_with_its_place(shop, tmp_path):
    """nginx -t tells file, operation and cure, and the running edge goes on."""
    text = (EXAMPLE / "openapi.yaml").read_text()
    tmp_path.chmod(0o755)
    for wrong, told in (
            (text.replace("        auth: public\n", ""), "auth"),
            (text.replace("auth: public", "auth: everybody"), "everybody"),
            (text.replace("lane: read", "lane: fast"), "fast"),
            (text.replace("        lane: read\n", "        lane: read\n        colour: red\n"), "colour"),
            (text.replace("maxLength: 40", "maxLenght: 40"), "maxLenght"),
            (text.replace("in: path", "in: cookie"), "cookie"),
            (text.replace("greeting_get\n", "product_get\n", 1), "product_get"),
            (text.replace("/api/v1/greetings/{name}", "/api/v1/greetings/{nom}"), "nom")):
        source = tmp_path / "wrong.yaml"
        source.write_text(wrong)
        done = subprocess.run([ROOT / "scripts/contract", "bundle", source], capture_output=True, text=True)
        said = done.stderr
        if done.returncode == 0:
            contract = tmp_path / "wrong.json"
            contract.write_text(done.stdout)
            shop.configure(http=f"commerce_contract {contract};")
            checked = shop.check_conf()
            assert checked.returncode != 0, f"accepted although {told} is wrong"
            said = checked.stderr + checked.stdout
            shop.expect_log("commerce_contract")
        assert told in said, said
    shop.configure()
    assert shop.edge().get("/health/live").status_code == 200
