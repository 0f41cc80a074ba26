"""Which numbers of a page are results, and whether a cell of the page prints them or a work is cited for them.

A *result numeral* is a decimal, or a number with a unit of outcomes: %, points, degrees, times, a factor, seconds to
hours, a range, "3 of 28". Number words, code, formulas and what an exercise asks are left out. The cell has to stand in
the section of the sentence, since a long page prints almost any two digits somewhere. What is derived may be checked
under *Check it*; sections that sum up, and sentences that refer to another place, may take from the whole page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

N = r"\d+(?:,\d{3})*(?:\.\d+)?"
LIST = rf"{N}(?:(?:°| %)?(?:,| to| and| or| against|–)+ ?{N})*"
UNIT = r"(?:\s?%|°|-?\s(?:points?|degrees|times|seconds|minutes|hours)\b)"
RESULT = re.compile(
    rf"(?<![\w.,-])({LIST}){UNIT}|(?<![\w.,-])({N}) of (?:the |these )?{N}\b"
    rf"|(?:factors? of (?:about )?|(?<!\d )× )({N})|(?<![\w.,-])(\d+\.\d+)(?!\.?\d)"
    rf"|(?:between|from|of|is|by|are) ({N} (?:to|and) {N})(?! (?:units|images|layers|epochs))"
)
NOT_PROSE = re.compile(
    r"^ *(?P<ticks>(?P<tick>[`:])(?P=tick){2,})(?:\{(?P<name>[\w-]+)\}.*?$)?(?P<body>.*?)^ *(?P=ticks)[ \t]*$"
    r"|(?P<role>\{[\w:]+\}`[^`]*`)|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|^ *:\w+:.*?$|\]\([^)]*\)|^\[\^.*?$|<!--.*?-->",
    re.DOTALL | re.MULTILINE,
)
PROSE = ("admonition", "note", "tip", "warning", "important", "dropdown")  # directives that hold sentences of ours
SECTION = re.compile(r"^(##+ .*|`{3,}\{exercise\}.*)$", re.MULTILINE)
SUMS_UP = re.compile(
    "## (In one sentence|The literature table|What is not plausible|What these numbers cannot say|Summary)"
)
DERIVES = re.compile("## (What is measured|Derivation|Check it)")
CITED = re.compile(r"\{cite:\w+\}")
PLACE = re.compile(r"(?i)\b(?:sections?|equations?|tables?|figures?) \d|\bcaption\b")
THEIRS = re.compile(r"(?i)\b(?:papers?|review|authors|theirs?|logs?|logged|published|reported|they (?:find|report))\b")
OURS = re.compile(r"(?i)\b(?:we|ours?|here)\b")
HEDGE = re.compile(r"(?i)\b(?:about|near|around|nearly|almost|beyond|above|below|more than|less than) $")
PATTERNS = {
    "reading time": rf"{N} minutes, and (?:{N}|as much again) for the exercises|^About {N} minutes\.$",
    "a right angle, a scale": r"\b(?:90|180)(?:°| degrees)|\b0° is parallel|\bbetween 0 and 1\b",
    "a level of confidence": r"\b95 % interval|\bbelow 0\.05\b|\b5 % at most",
    "a numbered place or version": rf"(?i)\b(?:section|equation|figure|table|python|CC BY(?:-SA)?)s? {N}",
    "a rate": rf"(?i)\brate(?: of inverses that learn is set)?(?:,? of|, to|,)? {LIST}|\brates of {LIST}"
    rf"|{N} \| learning rate|{LIST} (?:per|/)\s?ms",
    "a setting": rf"(?i)\b(?:λ =|momentum of|decay of|noise (?:is|of)|steps? (?:of )?|to the soma of) ?{LIST}"
    rf"|±{N}|{N} times an? epoch|weights (?:that are )?{LIST} times as large",
}


def numbers(text: str) -> list[str]:
    return [n.replace(",", "") for n in re.findall(rf"(?<![\w.])(?<!\w-){N}(?!\w|-\d)", text)]


def strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from strings(child)


def printed(cell: dict) -> set[str]:
    """The numbers that outputs show as text, those of players among them."""
    texts: list[str] = []
    for output in cell["outputs"]:
        data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/")}
        texts.append("".join(output.get("text", "")))
        plain = data.get("text/plain", "")
        if len(output.get("data", {})) == 1 or "\n" in plain:  # one line beside a figure only says that there is one
            texts.append(plain)
        for player in re.findall(r'"application/json">(.*?)</script>', data.get("text/html", ""), re.DOTALL):
            texts += strings(json.loads(player))
    return {number for text in texts for number in numbers(text)}


def shows(outputs: set[str], number: str, hedged: bool = False) -> bool:
    """Whether an output is ``number``, at the same or finer precision; shares may be printed as fractions.

    After "about" a number that ends in 0 is one to the nearest ten, one that ends in 5 to the nearest five.
    """
    digits, value = len(number.partition(".")[2]), float(number)
    finer = [(float(o), len(o.partition(".")[2]) - digits) for o in outputs]
    near = (5 if value % 10 == 0 else 2.5 if value % 5 == 0 else 0.5) if hedged else 0.5 * 10.0**-digits + 1e-9
    return any((d >= 0 and abs(o - value) <= near) or (d >= 2 and abs(100 * o - value) <= near) for o, d in finer)


def sections(cells: list[dict]) -> Iterator[tuple[str, set[str], set[str]]]:
    """Prose of each section, the numbers printed for it, and those of the page; an exercise is a section of its own."""
    found: list[tuple[str, list[str], set[str]]] = [("", [], set())]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            found[-1][2].update(printed(cell))
        elif cell["cell_type"] == "markdown":
            before, *rest = SECTION.split(source)
            found[-1][1].append(before)
            for title, text in zip(rest[::2], rest[1::2], strict=True):
                exercise = "{exercise}" in title
                parent = found[-1][0] if title.startswith("###") else ""
                found.append((f"{parent} {title}", [title + text if exercise else text], set()))
    whole = set().union(*(outputs for *_, outputs in found))
    checks = set().union(*(outputs for title, _, outputs in found if DERIVES.search(title)))
    for title, texts, outputs in found:
        source = whole if SUMS_UP.search(title) else checks if DERIVES.search(title) else outputs
        yield "\n\n".join(texts), source, whole


def only_prose(match: re.Match) -> str:
    body = NOT_PROSE.sub(only_prose, match["body"]) if match["name"] in PROSE else " "
    return match["role"] or body


def sentences(prose: str) -> Iterator[tuple[str, str]]:
    """Sentences, list items and rows, each with its context: the paragraph, for items and rows the one before too."""
    before = ""
    for paragraph in re.split(r"\n\s*\n", NOT_PROSE.sub(only_prose, prose)):
        if paragraph.strip():
            context = paragraph + before if re.match(r"\s*([-*|]|\d\.) ?", paragraph) else paragraph
            for block in re.split(r"\n(?=\s*[-*] |\s*\d+\. |\|)", paragraph):
                text = " ".join(block.split())
                for sentence in re.split(r"(?<=[.?!;:])[*_)\"”]*\s+(?=[\"“(A-Z*`{\[])", text):
                    yield sentence, context
            before = paragraph


def results(sentence: str) -> Iterator[tuple[str, int, int]]:
    """The result numerals of a sentence, each with where it starts and ends."""
    for match in RESULT.finditer(sentence):
        for number in re.finditer(N, match[match.lastindex or 0]):
            start = match.start(match.lastindex or 0)
            yield number[0].replace(",", ""), start + number.start(), start + number.end()


def verdicts(cells: list[dict], listed: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Each result numeral of a page, its verdict and its sentence."""
    for prose, outputs, whole in sections(cells):
        for sentence, context in sentences(prose):
            plain = re.sub(r"\{[\w:]+\}`[^`]*`", lambda role: " " * len(role[0]), sentence)
            attributed = THEIRS.search(plain) and CITED.search(prose)
            placed = PLACE.search(context) or context.lstrip().startswith("|")  # a table and what it is said to show
            cited = CITED.search(sentence) or attributed or (CITED.search(context) and placed)
            spans = {p: [m.span() for m in re.finditer(pattern, sentence)] for p, pattern in PATTERNS.items()}
            spans["listed"] = [m.span() for phrase in listed for m in re.finditer(re.escape(phrase), sentence)]
            for number, start, end in results(plain):
                inside = [kind for kind, where in spans.items() if any(a <= start and end <= b for a, b in where)]
                shown = shows(whole if "{ref}" in sentence else outputs, number, bool(HEDGE.search(sentence[:start])))
                clause = re.split(r"[;:(]", plain[:start])[-1] + re.split(r"[;:)]", plain[end:])[0]
                own = OURS.search(clause) and not THEIRS.search(clause)
                if set(inside) - {"listed"}:
                    verdict = "excepted"
                else:
                    verdict = "printed" if shown else "cited" if cited and not own else "listed" if inside else "open"
                yield number, verdict, sentence[max(0, start - 100) : end + 50]
