"""Sphinx directives that draw the pages of recorded trainings from the records, when the book is built.

- ``{runs-cost}``: how much is on record in all, and what it took.
- ``{runs} GROUP``: what the catalogue says about a group, and a table of its trainings.
- ``{runs-published} GROUP``: what papers report, beside what the runs of a group reach.
- ``{runs-curves} GROUP``: the learning curves of every training of a group.
- ``{runs-settings} GROUP``: the settings of each run, and the trials by which one was chosen.
- ``{scorecard}``: every published figure beside ours, with a verdict; a table a paper.

A group that the catalogue does not know was made by a script; its records have no setting, and its tables say less.
"""

from __future__ import annotations

import html
import io
import itertools
import math
import re
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "book" / "trainings" / "catalogue.toml"
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}
COLUMNS = 4  # panels beside each other
KNOWN = {"paper": "read in the paper", "code": "read in the authors' code or logs", "second-hand": "second-hand"}

Records = list[dict[str, Any]]


def catalogued() -> dict[str, dict]:
    """The tables of the catalogue by group."""
    return tomllib.loads(CATALOGUE.read_text("utf-8"))


def name_of(record: Mapping[str, Any]) -> str:
    """A run's name in its group; those of scripts have none, and go by their id without the seed."""
    return record.get("name") or re.sub(r"-s\d+$", "", record["id"])


def by_run(records: Iterable[dict[str, Any]]) -> dict[tuple[str, str], Records]:
    """Seeds of one run: the data sets as the book has them, the runs as the catalogue has them."""
    sets, tables = list(TITLES), catalogued()

    def place(record: dict[str, Any]) -> tuple:
        table = tables.get(record["group"], {"runs": {}})
        entries = list(table["runs"])
        named = [name for name in entries if f"{name_of(record)}-".startswith(f"{name}-")]
        if not named:
            return sets.index(record["dataset"]), len(entries), 0, record["id"]
        entry = max(named, key=len)
        rules = table["runs"][entry].get("rules") or table.get("rules") or [record["rule"]]
        return sets.index(record["dataset"]), entries.index(entry), rules.index(record["rule"]), record["id"]

    found: dict[tuple[str, str], Records] = defaultdict(list)
    for record in sorted(records, key=place):
        found[record["dataset"], name_of(record)].append(record)
    return found


def anchor(records: Records) -> str:
    """What the row of a run is called in links: its id without the seed."""
    return re.sub(r"-s\d+$", "", records[0]["id"])


def spiking(record: Mapping[str, Any]) -> bool:
    """Whether a network was tested with spikes."""
    return "spiking_accuracy" in record.get("metrics", {}).get("rule", {})


def test_errors(record: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Epochs and test errors in per cent, with spikes if the network is tested with spikes."""
    if "metrics" not in record:
        errors = record["curves"]["test_error"]
        return [record["epochs"] * i / (len(errors) - 1) for i in range(len(errors))], [100 * e for e in errors]
    curves = record["metrics"]
    split = curves["rule"] if spiking(record) else curves["test"]
    return split["epoch"], [100 * (1 - a) for a in split.get("spiking_accuracy") or split["accuracy"]]


def training_errors(record: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Epochs and errors on training images in per cent, where they were measured."""
    sample = record.get("metrics", {}).get("train_sample")
    return sample and (sample["epoch"], [100 * (1 - a) for a in sample["accuracy"]])


def reached_here(what: str, records: Records) -> str:
    """What our runs have where a paper has a figure: the mean of the seeds with its half-interval, or one number."""
    from bioplaus_lite.runs.results import QUANTITIES, mean_and_interval

    if not records:
        return "not on record yet"
    mean, half = mean_and_interval([QUANTITIES[what](record) for record in records])
    return f"{mean:.2f} ± {half:.2f}" if len(records) > 1 else f"{mean:.2f} (one seed)"


def verdict_in_words(row: Any) -> str:
    """``outside: ours 0.35 higher, worse``, of a row of the scorecard."""
    if row.verdict == "cannot be told":
        return f"cannot be told: one seed, {row.distance:+.2f}"
    if row.verdict == "outside":
        return f"**outside**: ours {abs(row.distance):.2f} {row.side}, {row.better}"
    return row.verdict


def with_interval(said: Any) -> str:
    """``1.93 ± 0.11``, of a row or a verdict, on one line; one number where there is one seed."""
    return f"{said.mean:.2f}" if math.isnan(said.half) else f"{said.mean:.2f}&nbsp;±&nbsp;{said.half:.2f}"


def units(sizes: Sequence[int]) -> str:
    """``784-5×256-10``: layers, and how many of a size there are in a row."""
    layers = [(size, len(list(equal))) for size, equal in itertools.groupby(sizes)]
    return "-".join(f"{many}×{size}" if many > 2 else "-".join([str(size)] * many) for size, many in layers)


def in_common(rows: Iterable[str]) -> list[str]:
    """The parts, between semicolons, that all of some texts have."""
    first, *others = (text.split("; ") for text in rows)
    return [part for part in first if all(part in other for other in others)]


def draw(runs: Mapping[str, Records]) -> str:
    """Small multiples as SVG: one panel a run, a line a seed, all with the same axes; text takes the page's colour."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    from bioplaus_lite.plots import COLOURS, STYLE

    rows = -(-len(runs) // COLUMNS)
    svg = {"svg.fonttype": "none", "svg.hashsalt": "trainings", "font.size": 8, "font.family": "sans-serif"}
    with plt.rc_context({**STYLE, **svg}):
        fig, axes = plt.subplots(
            rows, COLUMNS, figsize=(8.2, 1.35 * rows + 0.45), sharex=True, sharey=True, squeeze=False
        )  # fmt: skip
        lowest = min(e for records in runs.values() for record in records for e in test_errors(record)[1])
        for ax, (name, records) in zip(axes.flat, runs.items(), strict=False):
            for record in records:
                if trained := training_errors(record):
                    ax.plot(*trained, color=COLOURS[1], linewidth=0.8, linestyle=":")
                ax.plot(*test_errors(record), color=COLOURS[0], linewidth=1.1, linestyle="-")
            final = statistics.mean(100 * record["test_error"] for record in records)
            ax.set_title(f"{name}  {final:.2f} %", size=8, loc="left")
            ax.set_yscale("log")
            ax.set_ylim(max(lowest * 0.7, 0.05), 110)
            ticks = {"major_locator": LogLocator(subs=(1, 3)), "major_formatter": "{x:g}"}
            ax.yaxis.set(**ticks, minor_formatter=NullFormatter())
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            ax.tick_params(labelsize=8)
        for ax in list(axes.flat)[len(runs) :]:
            ax.set_axis_off()
        for ax in axes[:, 0]:
            ax.set_ylabel("error (%)", size=8)
        for column in range(COLUMNS):
            below = [ax for ax in axes[:, column] if ax.axison]
            if below:
                below[-1].set_xlabel("epoch", size=8)
                below[-1].tick_params(labelbottom=True)
        out = io.StringIO()
        fig.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
        plt.close(fig)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"#000000|(?<=fill: )black", "currentColor", text)
    return re.sub(r"<text ", '<text fill="currentColor" ', text)


def plain(value: Any) -> str:
    """A setting as a reader writes it: ``Adam, lr 0.001, forward (lr 0.01)``."""
    if isinstance(value, Mapping):
        head = [str(value[key]) for key in ("type", "name") if key in value]
        rest = [
            f"{key} ({plain(one)})" if isinstance(one, Mapping) else f"{key} {plain(one)}"
            for key, one in value.items()
            if key not in ("type", "name")
        ]
        return ", ".join([*head, *rest]) or "–"
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def without(record: Mapping[str, Any], key: str) -> tuple[dict[str, Any], Any]:
    """The setting of a run without one entry, and that entry: trials of one search differ in nothing else."""
    from bioplaus_lite.runs.fingerprints import setting_of

    setting = setting_of(record["parameters"])
    *path, last = key.split(".")
    table = setting
    for part in path:
        table = table[part]
    return setting, table.pop(last)


def speaks(value: Any) -> bool:
    """Whether a setting says something: what is left at nothing does not."""
    return value is not False and value not in (None, [], {})


class _Drawn(SphinxDirective):
    """What the directives share: Markdown as content."""

    def markdown(self, lines: list[str], cls: str) -> nodes.Node:
        holder = nodes.container(classes=cls.split())
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, holder)
        return holder


class _OfAGroup(_Drawn):
    """What the directives of a group share: its records."""

    required_arguments = 1

    def records(self, purpose: str = "result") -> Records:
        from bioplaus_lite.runs.records import path_of, read_lines  # with torch, which few pages need

        path = path_of(self.arguments[0], purpose)
        self.env.note_dependency(str(CATALOGUE))
        self.env.note_dependency(str(path))
        lines = read_lines(path)
        if lines.broken:
            number, _, why = lines.broken[0]
            raise self.error(f"{path.name}, line {number} is no record: {why}")
        return list(lines.records.values())

    def table(self) -> dict[str, Any]:
        """The group's table in the catalogue; empty for one that scripts made."""
        return catalogued().get(self.arguments[0], {})


class Runs(_OfAGroup):
    """``{runs} GROUP``: what the catalogue says about a group, and a table of its recorded trainings.

    One row for each run and data set: the test error of each seed, their mean, and what else a reader has to know.
    """

    def run(self) -> list[nodes.Node]:
        from bioplaus_lite.runs.records import MixedRuns, refuse_mixed

        group, results, trials = self.arguments[0], self.records(), self.records("search")
        if not results and not self.table():
            raise self.error(f"no group {group!r} in {CATALOGUE.name} and no records of one")
        about = [nodes.paragraph(text=self.table()["about"])] if self.table() else []
        if not results:
            return [*about, nodes.paragraph(text="No run of this group is on record yet.")]
        try:
            if self.table():
                refuse_mixed(f"of {group}", results)
        except MixedRuns as error:
            raise self.error(str(error)) from error
        heads = ("data", "run", "units", "epochs", "test error, seed by seed (%)", "mean", "seconds")
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for (dataset, name), records in by_run(results).items():
            errors = [100 * record["test_error"] for record in records]
            lines.append(
                f'| {TITLES[dataset]} | <span id="{anchor(records)}"></span>{name} '
                f"| {'-'.join(map(str, records[0]['sizes']))} "
                f"| {records[0]['epochs']} | {' '.join(f'{error:.2f}' for error in errors)} "
                f"| {statistics.mean(errors):.2f} | {statistics.mean(r['wall_seconds'] for r in records):.0f} |"
            )
        seconds = sum(record["wall_seconds"] for record in (*results, *trials))
        searched = f" and {len(trials)} trials of searches" if trials else ""
        commits = sorted({record["commit"] for record in results})
        settings = len({record["fingerprint"] for record in (*results, *trials) if "fingerprint" in record})
        verified = (
            f"To see whether the code of today still takes the same first steps in their {settings} settings: "
            f"`.venv/bin/python -m bioplaus_lite.runs verify '{group}-*'`."
            if self.table()
            else "**Not verified**: a script made these, with what the catalogue cannot say, so whether the code of "
            "today still gives them is not checked."
        )
        said = "*Seconds*: from start to end, measuring included, mean of the seeds. "
        said += f"{len(results)} trainings{searched}, {seconds / 3600:.1f} hours on one core that was sometimes shared."
        said += f" Computed by commit {', '.join(commits)}."
        if len(commits) > 1 and self.table():
            said += (
                f" There are {len(commits)}, as runs and seeds were added one after another; seeds of one run whose "
                "{ref}`fingerprints <fingerprints>` differ would not stand in this table."
            )
        return [*about, self.markdown([*lines, "", f"{said} {verified}"], "recorded-runs")]


class RunsPublished(_OfAGroup):
    """``{runs-published} GROUP``: figures that papers report, each beside the run that the catalogue puts there.

    What all rows share is said once, below the table.
    """

    #: Columns that stand in the table only if their rows differ, and what is said of them otherwise.
    SHARED: ClassVar = {"data": "data", "what": "number", "where": "where", "known": "known", "differs": "not the same"}
    COLUMNS = ("data", "run", "what", "published", "here", "where", "known", "differs")

    def run(self) -> list[nodes.Node]:
        from bioplaus_lite.runs.catalogue import published_in

        figures = list(published_in(self.arguments[0], self.table())) if self.table() else []
        if not figures:
            raise self.error(f"the catalogue has no published figures for {self.arguments[0]!r}")
        records = by_run(self.records())
        rows = []
        for one in figures:
            own = records.get((one.dataset, one.run), [])
            rows.append(
                {
                    "data": TITLES[one.dataset],
                    "run": f'<a href="#{anchor(own)}">{one.run}</a>' if own else one.run,
                    "what": one.what,
                    "published": f"{one.figure:g}",
                    "here": reached_here(one.what, own),
                    "where": f"{{cite:t}}`{one.paper}`: {one.where}",
                    "known": KNOWN[one.known],
                    "differs": one.differs,
                }
            )
        same = {key for key in self.SHARED if len({row[key] for row in rows}) == 1}
        heads = [column for column in self.COLUMNS if column not in same]
        lines = [f"| {' | '.join(self.SHARED.get(head, head) for head in heads)} |", "|" + "---|" * len(heads)]
        lines += [f"| {' | '.join(row[head] for head in heads)} |" for row in rows]
        said = [f"*{self.SHARED[key].capitalize()}*: {rows[0][key]}." for key in self.SHARED if key in same]
        said.append(
            "*Here*: at the end of the training, mean of the seeds and the half-width of its 95 % interval; one seed "
            "has none. Another setting is another experiment: equal figures are no replication."
        )
        return [self.markdown([*lines, "", " ".join(said)], "recorded-runs published")]


class RunsCurves(_OfAGroup):
    """``{runs-curves} GROUP``: the learning curves of every run, small multiples for each data set."""

    def run(self) -> list[nodes.Node]:
        runs, made = by_run(self.records()), []
        for dataset in dict.fromkeys(dataset for dataset, _ in runs):
            own = {name: records for (d, name), records in runs.items() if d == dataset}
            ends = [statistics.mean(record["test_error"] for record in records) for records in own.values()]
            where = f"{TITLES[dataset]}: learning curves of {len(own)} run{'s' if len(own) > 1 else ''}"
            alt = (
                f"{where}, a panel each: error in per cent against epochs. "
                f"Test errors end between {100 * min(ends):.1f} and {100 * max(ends):.1f} per cent."
            )
            svg = draw(own).replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
            drawn = any(training_errors(record) for records in own.values() for record in records)
            caption = f"{where}, on a logarithmic axis. Lines: error on the test images, one a seed"
            if any(spiking(record) for records in own.values() for record in records):
                caption += " (of spiking networks with spikes)"
            caption += "; dotted: on a sample of the training images, without spikes" if drawn else ""
            caption += ". Beside the name: the last test error, mean of the seeds."
            figure = f'<figure class="learning-curves">{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'
            made.append(nodes.raw("", figure, format="html"))
        return made or [nodes.paragraph(text="There is nothing to draw yet.")]


class RunsSettings(_OfAGroup):
    """``{runs-settings} GROUP``: the settings of each run, and what was tried where one was searched for."""

    #: Told apart in columns; what else differs from run to run stands in the last one.
    COLUMNS = ("network", "options", "optimizer")
    ALWAYS = ("rule", "dataset", "epochs", "seed", "purpose", *COLUMNS)

    def run(self) -> list[nodes.Node]:
        results, trials = self.records(), self.records("search")
        if not results or "parameters" not in results[0]:
            return []
        every = [record["parameters"] for record in results]
        same = {k: v for k, v in every[0].items() if k not in self.ALWAYS and all(p[k] == v for p in every)}
        shared = plain({key: value for key, value in same.items() if speaks(value)})
        heads = ("data", "run", "rule", *self.COLUMNS, "else")
        lines = [f"The same for all: {shared}.", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for (dataset, name), records in by_run(results).items():
            p = records[0]["parameters"]
            rest = {k: v for k, v in p.items() if k not in (*self.ALWAYS, *same) and speaks(v)}
            cells = (TITLES[dataset], name, p["rule"], *(plain(p[column]) for column in self.COLUMNS), plain(rest))
            lines.append(f"| {' | '.join(cells)} |")
        made: list[nodes.Node] = [self.markdown(lines, "recorded-runs settings")]
        if not trials:
            return made
        heads = ("data", "run", "searched", "validation error (%) of each value; the chosen one is bold")
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for (dataset, name), records in by_run(results).items():
            if not (chosen := records[0].get("chosen")):
                continue
            but = without(records[0], chosen["key"])[0]
            found: dict[Any, Records] = defaultdict(list)
            for trial in trials:
                rest, value = without(trial, chosen["key"])
                if rest == but:
                    found[value].append(trial)
            shown = []
            for value in sorted(found):
                error = statistics.mean(100 * trial["validation_error"] for trial in found[value])
                text = f"{plain(value)} → {error:.2f}"
                shown.append(f"**{text}**" if value == chosen["value"] else text)
            lines.append(f"| {TITLES[dataset]} | {name} | {chosen['key']} | {' · '.join(shown)} |")
        epochs = sorted({record["epochs"] for record in trials})
        said = f"Trials of {' or '.join(map(str, epochs))} epochs, judged on the validation images."
        lines += ["", f"{said} A trial that diverged counts as all wrong."]
        made.append(self.markdown(lines, "recorded-runs searches"))
        return made


class Scorecard(_Drawn):
    """``{scorecard}``: every published figure that runs stand beside, a table a paper, none left out.

    What all rows of a paper share is said once, above its table.
    """

    def run(self) -> list[nodes.Node]:
        from bioplaus_lite.runs.records import path_of
        from bioplaus_lite.runs.scorecard import count, scorecard

        card = scorecard()
        self.env.note_dependency(str(CATALOGUE))
        for group in dict.fromkeys(card.group):
            self.env.note_dependency(str(path_of(group)))
        made = []
        for paper, own in card.groupby("paper", sort=False):
            same = in_common(own.differs)
            shared = {column for column in ("where", "what", "dataset") if own[column].nunique() == 1}
            rows = [self.cells(row, shared, same) for row in own.itertuples()]
            heads = [head for head in rows[0] if any(row[head] for row in rows)]
            known = " and ".join(KNOWN[known] for known in dict.fromkeys(own.known))
            said = f"{{cite:t}}`{paper}`, {known}. {count(own).partition(': ')[2]}."
            for column, title in (("what", "Of all:"), ("where", "Where:"), ("dataset", "Data:")):
                if column in shared:
                    said += f" *{title}* {TITLES.get(own[column].iloc[0], own[column].iloc[0])}."
            said += f" *Not the same in any:* {'; '.join(same)}." if same else ""
            lines = [said, "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
            lines += [f"| {' | '.join(row[head] or '–' for head in heads)} |" for row in rows]
            made.append(self.markdown(lines, "recorded-runs scorecard"))
        return made

    def cells(self, row: Any, shared: set[str], same: list[str]) -> dict[str, str]:
        """A row of the table by its heads."""
        from bioplaus_lite.plots import short_name

        told = [getattr(row, column) for column in ("what", "dataset", "where") if column not in shared]
        figure = [short_name(row.run, row.rule), *(TITLES.get(word, word) for word in told)]
        page = f"{'../' * self.env.docname.count('/')}trainings/{row.group}.html"
        link = f'<a href="{page}#{row.group}-{row.dataset}-{row.run}">{row.run}</a>'
        ours = [f"{with_interval(row)} ({row.seeds})"]
        ours += [f"{name}: {with_interval(other)}, {other.verdict}" for name, other in row.others]
        differs = [part for part in row.differs.split("; ") if part not in same]
        return {
            "figure": "; ".join(figure),
            "our run": f"{link}, {units(row.sizes)}, {row.epochs} epochs",
            "published": f"{row.published:g}",
            "ours (seeds)": "<br>".join(ours),
            "verdict": verdict_in_words(row),
            "also not the same" if same else "not the same": "; ".join(differs),
            "reason": row.reason,
        }


class RunsCost(SphinxDirective):
    """``{runs-cost}``: how much is on record in all, and what it took."""

    def run(self) -> list[nodes.Node]:
        from bioplaus_lite.runs.records import PURPOSES, path_of, recorded

        for purpose in PURPOSES:
            for path in sorted(path_of("", purpose).parent.glob("*.jsonl")):
                self.env.note_dependency(str(path))
        records = [record for record in recorded().values() if "parameters" in record]
        trials = sum(record["parameters"]["purpose"] == "search" for record in records)
        hours = sum(record["wall_seconds"] for record in records) / 3600
        text = f"On record are {len(records) - trials} trainings of the catalogue and {trials} trials of searches, "
        text += f"{hours:.0f} hours on one core that other work sometimes shared."
        return [nodes.paragraph(text=text)]


def setup(app: Sphinx) -> dict[str, object]:
    """Add the directives; called by Sphinx."""
    app.add_directive("runs", Runs)
    app.add_directive("runs-cost", RunsCost)
    app.add_directive("runs-curves", RunsCurves)
    app.add_directive("runs-published", RunsPublished)
    app.add_directive("runs-settings", RunsSettings)
    app.add_directive("scorecard", Scorecard)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
