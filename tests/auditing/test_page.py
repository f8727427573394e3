"""The audit's page: complete, escaped, small, the same each time, and honest about what is absent."""

import copy
import re
from html import unescape

import matplotlib
import pytest

from nabla_tau.auditing.page import LONGEST, TITLES, page
from nabla_tau.auditing.report import Report
from tests.auditing.sample_report import sample_report

ATTACK = "<script>document.title = 'owned'</script><img src=x onerror=\"alert('1')\">"
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def html():
    return page(sample_report())


def text_of(html):
    """What a reader sees, without markup and with its white space as one blank."""
    body = html[html.index("<body>") :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def test_every_section_is_there_in_order(html):
    assert re.findall(r'<section id="(\w+)"', html) == list(TITLES)[1:]
    assert re.findall(r'<a href="#(\w+)">', html) == list(TITLES)
    assert html.index('id="verdict"') < html.index('id="controls"')


def test_the_numbers_are_there(html):
    text = text_of(html)
    report = sample_report()
    assert report["verdict"]["sentence"] in text
    for part in (
        *("± 0.021", "1,500", "5,000", "6.7 %"),  # margin, samples, power
        *("p = 0.412", "AUC 0.932 [0.923, 0.941]", "p < 0.001"),  # controls
        *("calibration error", "n too small, needs 10,000", "energy distance", "Attacks of the paper"),
        *("AUC of 0.861 [0.851, 0.871]", "17, 402, 911, 1204", "4.97 standard deviations", "0 of 3"),
        *("Regurgitation", "Exfiltration", "Reconstruction", "Model inversion", "Attribute inference", "paragraph 55"),
        *("lower bounds", "cannot prove", "no certificate", report["command"], report["sets"]["test"]["fingerprint"]),
        *(model["fingerprint"] for model in report["models"]),
    ):
        assert part in text, part


def test_a_pass_that_nothing_forgotten_might_have_had_too_says_so():
    report = sample_report(power={"smallest_fraction": None, "power": 0.8, "level": 0.05})
    text = text_of(page(report))
    assert text.count("a model that had forgotten nothing would be missed in more than 20 % of cases") == 2
    assert "not available of the forget set" not in text
    report["verdict"]["advice"] = "Nothing to do."
    told = " ".join(str(Report(report)).split())
    assert "with nothing forgotten, 20% of such audits or more would have found nothing either" in told


def test_every_drawing_has_its_numbers_in_words(html):
    labels = re.findall(r'<div role="img" aria-label="([^"]*)"><svg', html)
    assert len(labels) == html.count("<svg") == 1 + 5 + 1 + 2 + 1
    assert all(len(re.findall(r"\d\.\d", label)) >= 3 for label in labels)
    assert "Median: forget 0.0" in labels[1]


def test_no_id_is_used_twice(html):
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', html)) | set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_no_colour_is_left_that_stands_for_another(html):
    assert re.findall(r"#0000[abc]\d", html) == []


def test_small_and_without_addresses(html):
    assert len(html.encode()) < LIMIT / 10
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html


def test_a_huge_report_stays_small():
    report = sample_report()
    report["models"] += [report["models"][2] | {"name": f"retrained {number}"} for number in range(4, 101)]
    for model in report["models"]:
        model["per_class"] = [{"class": c, "retain": 0.5, "forget": None, "test": c / 1000} for c in range(1000)]
        model["residual"]["worst"] = list(range(100_000))
    report["epochs"] *= 200
    report["settings"]["trace"] = list(range(1_000_000))
    html = page(report)
    assert len(html.encode()) < LIMIT
    assert html.count(", all in report.json)") == 1
    assert len(re.search(r"<code>\[0, 1, 2[^<]*", html).group()) < LONGEST + 100


def test_the_same_report_gives_the_same_page(html):
    report = sample_report()
    before = copy.deepcopy(report)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        settings = dict(matplotlib.rcParams)
        assert page(report) == html
        assert dict(matplotlib.rcParams) == settings
    assert report == before


def poisoned(value):
    """Every text in a report replaced by one that would run, every key of its free dicts too."""
    if isinstance(value, dict):
        return {key: poisoned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    return ATTACK if isinstance(value, str) else value


def test_everything_is_escaped():
    report = sample_report()
    names = [model["name"] for model in report["models"]]
    report["absent"] = {"epochs": "none"}
    report = poisoned(report) | {"epochs": None}
    for model, name in zip(report["models"], names, strict=True):
        model["name"] = name if name in ("original", "unlearned") else f"{name} {ATTACK}"
        model["per_class"][0]["class"] = ATTACK
        model["utility"]["test"][ATTACK] = {"value": 1.0, "low": 0.0, "high": 2.0}
    for key in ("settings", "sets", "absent", "versions"):
        report[key][ATTACK] = report[key].get("forget", ATTACK)
    html = page(report)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") > 50
    assert 'onerror="' not in html


@pytest.mark.parametrize("key", sorted(sample_report()))
def test_any_entry_may_be_absent(key):
    report = sample_report()
    report["models"] = report["models"][:1]
    without = {name: entry for name, entry in report.items() if name != key}
    assert page(without) == page(without | {key: None})


@pytest.mark.parametrize("key", sorted(set(sample_report()["models"][0]) - {"name"}))
def test_any_entry_of_a_model_may_be_absent(key):
    report = sample_report()
    report["models"] = [model | {key: None} for model in report["models"][:2]]
    assert "not available" in page(report).lower() or key == "per_class"


def leaves(value, path=()):
    """Paths of all entries in a dict."""
    for key, one in value.items():
        yield (*path, key)
        if isinstance(one, dict) and key not in ("histogram", "roc"):
            yield from leaves(one, (*path, key))


def test_any_number_of_a_model_may_be_absent():
    report = sample_report()
    model = report["models"][1]
    for path in leaves(model):
        lacking = entry = copy.deepcopy(model)
        for key in path[:-1]:
            entry = entry[key]
        entry[path[-1]] = None
        report["models"].append(lacking | {"name": "retrained without " + ", ".join(path)})
    html = page(report)
    assert "retrained without boosted, auc, value" in html
    assert html.count("not available") > 60


def test_what_is_absent_is_said_with_its_reason():
    reasons = {"epochs": "a bare model was given", "pair": "no original & nothing", "blind": "no fixed shape"}
    report = sample_report(epochs=None, pair=None, reference=None, absent=reasons)
    report["controls"]["blind"] = None
    text = text_of(page(report))
    assert "Not available: a bare model was given" in text
    assert "Not available: no original & nothing" in text
    assert "Not available: no fixed shape" in text
    assert "What is not in this report, and why" in text
    assert "Retrained reference" not in text
    assert "Verdict" in text_of(page({}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_number_breaks_the_page(number):
    report = sample_report()
    for model in report["models"]:
        model["utility"]["test"]["loss"] = {"value": number, "low": number, "high": number}
        model["margin"] = model["energy"]["value"] = model["over_forgetting"]["share"]["value"] = number
    report["epochs"][3]["forget_loss"] = report["verdict"]["margin"] = number
    assert "</html>" in page(report)


def test_a_file_name_that_is_no_unicode_can_be_saved(tmp_path):
    (tmp_path / "report.html").write_text(page(sample_report(command="audit \udcff")), encoding="utf-8")


@pytest.mark.parametrize(
    "kind", [*("residual", "over_forgotten", "distinguishable", "unreliable"), "nothing_memorised", "new kind", None]
)
def test_it_never_says_more_than_is_known(kind, html):
    report = sample_report()
    report["verdict"]["kind"] = kind
    for text in (html, page(report)):
        assert re.findall(r"(?i)\b(deleted|certified|proved|proven|guaranteed|forgotten for good)\b", text) == []
    assert "no residue detectable" not in text_of(page(report))
