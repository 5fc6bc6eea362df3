"""Write benchmarks/RESULTS.md: each aim beside what was measured, where the time goes, all figures. And README's table.

python -m benchmarks.report [--size node] [--out FOLDER_OF_THE_JSON_LINES]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import adversarial_step, convolution, harness, likelihood, readme, split, tempering, torch_modules
from benchmarks.auto import NEAR
from benchmarks.ranks import rates
from benchmarks.server import AIM as SERVER_AIM
from benchmarks.server_latency import IDLE_AIM
from benchmarks.step import NETWORKS

__all__ = ["Aim", "aims", "main", "write"]

Lines = list[dict[str, Any]]
QUESTIONS = ("step", "ranks", "sum", "overhead", "start", "server_latency", "server", "auto", "split", "threads",
             "convolution", "adversarial_step", "torch_modules", "rbm", "likelihood", "tempering")
LIKELIHOODS = {"784-16, thresholded": -140.0, "784-500, thresholded": -80.0, "784-500, drawn": -91.0}
RANKS = {"pyddl": "allreduce", "pyddl sharded": "allreduce with --shard-optimizer"}


class Aim(NamedTuple):
    """One aim and what was reached; ``wanted`` is a least value, or a largest one where ``most``."""

    what: str
    wanted: float
    reached: float
    unit: str = "x"
    most: bool = False
    why: str = ""

    @property
    def met(self) -> bool:
        return self.reached <= self.wanted if self.most else self.reached >= self.wanted

    def row(self) -> list[str]:
        bound = "at most" if self.most else "at least"
        verdict = "met" if self.met else f"**missed** by {abs(self.reached - self.wanted):.2f}{self.unit}"
        return [
            self.what,
            f"{bound} {self.wanted:g}{self.unit}",
            f"{self.reached:.2f}{self.unit}",
            f"{verdict}{'' if self.met or not self.why else ': ' + self.why}",
        ]


def aims(lines: dict[str, Lines]) -> list[Aim]:
    """The aims that these results speak of."""
    found: list[Aim] = []
    against_torch = {"float32": {32: 2.5, 128: 1.6, 512: 1.3}, "bfloat16": {32: 3.0, 128: 2.0, 512: 1.4}}
    for line in lines["step"]:
        if line["network"] != NETWORKS[1]:
            continue
        name = f"{line['network']}, batch {line['batch']}"
        for dtype, wanted in against_torch.items():
            if line["batch"] in wanted and dtype in line["speed_up"] and "torch" in line:
                found.append(
                    Aim(
                        f"{name}, {dtype}: against the best of PyTorch",
                        wanted[line["batch"]],
                        line["speed_up"][dtype],
                        why=where(line, dtype),
                    )
                )
        if line["batch"] >= 128:
            limit = line["seconds"]["pyddl float32"]["p50"] / line["limits"]["float32"]["limit"]
            found.append(
                Aim(
                    f"{name}, float32: times the machine's limit",
                    1.15,
                    limit,
                    most=True,
                    why=where(line, "float32"),
                )
            )
    for line in lines["ranks"]:
        name = f"{line['ranks']} ranks with {line['batch']} rows each"
        if line["ranks"] == 2:
            for way, scaling in line["scaling"].items():
                of_local = line["share_of_local"][way]
                found.append(
                    Aim(
                        f"{name}, {RANKS[way]}: share of 2 x one rank",
                        97,
                        100 * scaling,
                        " %",
                        why=f"two ranks that send nothing reach {scaling / of_local:.0%}, what is sent and waited for "
                        f"leaves {of_local:.0%} of that",
                    )
                )
        wanted_of_ddp = {32: 4.0, 128: 2.5}
        if "DDP" in line["speed_up"] and line["batch"] in wanted_of_ddp:
            found.append(Aim(f"{name}: against DDP", wanted_of_ddp[line["batch"]], line["speed_up"]["DDP"]))
    for ranks in sorted({line["ranks"] for line in lines["sum"]}):
        open_mpi = [
            (line["bytes"], next(iter(line["speed_up"].values())))
            for line in lines["sum"]
            if line["ranks"] == ranks
        ]
        if large := [faster for nbytes, faster in open_mpi if nbytes >= 100_000]:
            found.append(
                Aim(
                    f"sum over {ranks} ranks, 100 kB to 80 MB, the worst: against MPI_Allreduce",
                    5.0,
                    min(large),
                )
            )
        found.append(
            Aim(
                f"sum over {ranks} ranks, any size, the worst: against MPI_Allreduce",
                1.0,
                min(faster for _, faster in open_mpi),
            )
        )
    for line in lines["overhead"]:
        why = ", ".join(f"{part} {1e6 * share:.1f} us" for part, share in line["shares"].items())
        found.append(
            Aim("Python's share of a step", 1e6 * line["aim"], 1e6 * line["total"], " us", most=True, why=why)
        )
    for line in lines["start"]:
        for name, seconds in line["beyond"].items():
            found.append(Aim(f"`import {name}`, beyond NumPy", line["import_aim"], seconds, " s", most=True))
        what = f"first step of {line['ranks']} ranks on {line['data']}, from the launch"
        found.append(Aim(what, line["start_aim"], line["start"], " s", most=True))
    for line in lines["server_latency"][:1]:  # the shortest vector
        waking, share = line["seconds"]["socket, after 5 ms"]["p50"], line["idle_share"]["node"]
        why = f"a byte there and back over a socket, between two processes that sleep, takes {1e6 * waking:.0f} us"
        for what, how in (("in a row", ""), ("after 5 ms", ", asleep before")):
            seconds = line["seconds"][f"node, {what}"]["p50"]
            found.append(
                Aim(
                    f"server on a node{how}, push to fetch",
                    1e6 * line["aim"],
                    1e6 * seconds,
                    " us",
                    most=True,
                    why=why if how else "",
                )
            )
        found.append(Aim("idle server on a node, of a core", 100 * IDLE_AIM, 100 * share, " %", most=True))
    for line in lines["server"]:
        found += [
            Aim(
                f"asynchronous server, {line['workers']} workers, {line['network']}: against {name}",
                SERVER_AIM,
                faster,
                why=f"{line['share_of_local']:.0%} of what {line['workers']} ranks reach that send nothing",
            )
            for name, faster in line["speed_up"].items()
        ]
    for line in lines["auto"]:
        chosen = min(("allreduce", "allreduce, shard_optimizer"), key=lambda name: median(line["predicted"][name]))
        found.append(
            Aim(
                f"auto on {line['ranks']} ranks: how far {chosen} is from what was predicted",
                100 * NEAR,
                100 * abs(line["ratio"][chosen] - 1),
                " %",
                most=True,
            )
        )
    for line in lines["convolution"]:
        for dtype, wanted in convolution.AIMS.get(line["case"], {}).items():
            if dtype in line["speed_up"]:
                share = line["share"][dtype]
                kinds = ", ".join(f"{kind} {part:.0%}" for kind, part in sorted(
                    line["primitives"][dtype].items(), key=lambda each: -each[1])[:3])
                found.append(Aim(f"convolutions, {line['case']}, {dtype}: against the best of PyTorch", wanted,
                                 line["speed_up"][dtype],
                                 why=f"{share['useful']:.0%} of the peak without padding; of the step {kinds}"))
    for line in lines["adversarial_step"]:
        for dtype, wanted in adversarial_step.AIMS.get(line["case"], {}).items():
            if dtype in line["speed_up"]:
                found.append(Aim(f"adversarial step, {line['case']}, {dtype}: against the best of PyTorch", wanted,
                                 line["speed_up"][dtype]))
        if line["objective"] == "wgan_gp":
            found += [Aim(f"adversarial step, {line['case']}, {dtype}: of one without penalty", adversarial_step.MOST,
                          times, most=True) for dtype, times in line["times_plain"].items()]
    for line in (each for each in lines["torch_modules"] if each["ranks"] == 2):
        found.append(Aim(f"PyTorch module, {line['case'].replace(':', ', ')} rows per rank: against the best of DDP",
                         torch_modules.AIMS[line["case"]], line["against"]["pyddl"]["faster"],
                         why=f"twice one process of PyTorch would be {torch_modules.bound(line):.2f}x, and sums leave "
                             f"{line['share_of_local']:.0%} of what ranks reach that send nothing"))
    for line in lines["rbm"]:
        wanted = {10: 3.0, 100: 2.0}.get(line["batch"])
        if wanted is not None:
            found.append(Aim(f"RBM, 784-{line['hidden']}, batch {line['batch']}: against scikit-learn", wanted,
                             line["speed_up"]["classic float32"]))
    for name, wanted in LIKELIHOODS.items():
        if values := [line["nats"] for line in lines["likelihood"] if line["name"] == name]:
            found.append(Aim(f"RBM, {name}: nats per test image", wanted, median(values), ""))
    for line in lines["tempering"]:
        if line["truth"] is not None and line["name"].startswith("2"):
            found.append(Aim(f"tempered RBM, {line['name']}, seed {line['seed']}: nats below the truth", 0.6,
                             line["truth"] - line["ptt"]["log_likelihood"], "", most=True))
    if costs := [line["cost"] for line in lines["tempering"]]:
        found.append(Aim("tempered RBM: cost of an update, of a persistent chain's", 2.2, median(costs), most=True))
    return found


def where(line: dict[str, Any], dtype: str) -> str:
    """Where the time of a step goes, in shares."""
    parts, limits = line["parts"][dtype], line["limits"][dtype]
    whole = parts["gradient"] + parts["update"] + parts["python"]
    rest = parts["gradient"] - parts["loss"]
    return (
        f"products and activations {rest / whole:.0%} (at the peak: {limits['products'] / whole:.0%}), "
        f"loss {parts['loss'] / whole:.0%}, Adam {parts['update'] / whole:.0%} "
        f"(at memory's speed: {(limits['limit'] - limits['products']) / whole:.0%}), "
        f"Python {parts['python'] / whole:.0%}"
    )


def step_section(lines: Lines) -> Iterable[str]:
    for network in dict.fromkeys(line["network"] for line in lines):
        chosen = sorted(
            (line for line in lines if line["network"] == network), key=lambda line: line["batch"]
        )
        names = list(chosen[0]["seconds"])
        rows = [
            [
                line["batch"],
                *(f"{line['batch'] / line['seconds'][name]['p50']:,.0f}" for name in names),
                *(f"{faster:.2f}x" for faster in line["speed_up"].values()),
            ]
            for line in chosen
        ]
        yield f"\n### {network}, samples/s on one thread\n"
        yield harness.table(
            ["batch", *names, *(f"pyddl / best, {dtype}" for dtype in chosen[0]["speed_up"])], rows
        )
        yield "\nWhere a step's microseconds go (`limit`: products at their peak, optimizer at memory's speed):\n"
        yield harness.table(
            ["batch", "type", "step", "limit", "gradient", "of which loss", "Adam", "Python"],
            [
                [
                    line["batch"],
                    dtype,
                    *(
                        f"{1e6 * value:.0f}"
                        for value in (
                            line["seconds"][f"pyddl {dtype}"]["p50"],
                            line["limits"][dtype]["limit"],
                            parts["gradient"],
                            parts["loss"],
                            parts["update"],
                            parts["python"],
                        )
                    ),
                ]
                for line in chosen
                for dtype, parts in line["parts"].items()
            ],
        )


def ranks_section(lines: Lines) -> Iterable[str]:
    yield f"\n### {lines[0]['network']}, samples/s of all ranks, one thread each\n"
    names = list(lines[0]["seconds"])
    rows = []
    for line in lines:
        rate = rates(line, line["ranks"])
        rows.append(
            [
                line["ranks"],
                line["batch"],
                *(f"{rate[name]:,.0f}" for name in names),
                *(f"{scaling:.0%}" for scaling in line["scaling"].values()),
                *(f"{faster:.2f}x" for faster in line["speed_up"].values()),
            ]
        )
    yield harness.table(
        [
            "ranks",
            "rows per rank",
            *names,
            *(f"{way} / ranks x one" for way in lines[0]["scaling"]),
            *(f"pyddl / {name}" for name in lines[0]["speed_up"]),
        ],
        rows,
    )


def sum_section(lines: Lines) -> Iterable[str]:
    yield "\n### Sum over the ranks of a node, microseconds (`limit`: all vectors through memory or cache once)\n"
    names = list(lines[0]["seconds"])
    limited = all("limit" in line for line in lines)  # as in results of this version
    rows = [
        [
            line["ranks"],
            f"{line['bytes']:,}",
            *([harness.microseconds(line["limit"]).removesuffix(" us")] if limited else []),
            *(f"{1e6 * line['seconds'][name]['p50']:.1f}" for name in names),
            *(f"{line['speed_up'][name]:.2f}x" for name in names if name != "pyddl"),
        ]
        for line in lines
    ]
    yield harness.table(
        [
            "ranks",
            "bytes",
            *(["limit"] if limited else []),
            *names,
            *(f"pyddl / {name}" for name in names if name != "pyddl"),
        ],
        rows,
    )


def overhead_section(lines: Lines) -> Iterable[str]:
    yield "\n### Python's share of a step, microseconds\n"
    line = lines[0]
    rows = [[part, f"{1e6 * share:.1f}"] for part, share in line["shares"].items()]
    yield harness.table(["part", "us"], [*rows, ["in all", f"{1e6 * line['total']:.1f}"]])


def server_section(lines: Lines) -> Iterable[str]:
    yield "\n### Parameter server, from a push to the end of the fetch of what it led to, microseconds\n"
    rows = [
        [f"{line['floats']:,}", name, *(f"{1e6 * seconds[what]:.1f}" for what in ("p50", "p95", "min"))]
        for line in lines
        for name, seconds in line["seconds"].items()
    ]
    yield harness.table(["floats", "way", "p50", "p95", "min"], rows)
    shares = ", ".join(f"{100 * share:.2f} % of a core ({way})" for way, share in lines[0]["idle_share"].items())
    yield f"\nAn idle server takes {shares}. `socket`: a byte there and back between two cores."


def asynchronous_section(lines: Lines) -> Iterable[str]:
    workers, batch = lines[0]["workers"], lines[0]["batch"]
    yield f"\n### Asynchronous server, {workers} workers with {batch} rows each, samples/s\n"
    names = list(lines[0]["seconds"])
    yield harness.table(
        ["network", *names, *(f"pyddl / {name}" for name in lines[0]["speed_up"]), "pyddl / pyddl local"],
        [
            [
                line["network"],
                *(f"{workers * batch / line['seconds'][name]['p50']:,.0f}" for name in names),
                *(f"{faster:.2f}x" for faster in line["speed_up"].values()),
                f"{line['share_of_local']:.0%}",
            ]
            for line in lines
        ],
    )


def auto_section(lines: Lines) -> Iterable[str]:
    yield f"\n### {lines[0]['network']}, {lines[0]['batch']} rows per step: what auto predicts, ms per step\n"
    yield harness.table(
        ["ranks", "strategy", "predicted", "measured", "measured / predicted"],
        [
            [
                line["ranks"],
                name,
                f"{1e3 * median(line['predicted'][name]):.2f}",
                f"{1e3 * median(line['measured'][name]):.2f}",
                f"{ratio:.2f}",
            ]
            for line in lines
            for name, ratio in line["ratio"].items()
        ],
    )


def split_section(lines: Lines) -> Iterable[str]:
    where = f"{lines[0]['ranks']} ranks on {lines[0]['nodes']} node{'s' if lines[0]['nodes'] > 1 else ''}"
    yield f"\n### Split weights against gradients that are summed, {where}: MB sent per rank and step, ms per step\n"
    yield harness.table(split.head(lines[0]), [split.rows_of(line) for line in lines])


def threads_section(lines: Lines) -> Iterable[str]:
    yield f"\n### One rank on {lines[0]['threads']} threads, microseconds per step\n"
    names = list(lines[0]["seconds"])
    yield harness.table(
        ["network", "batch", *names, *(f"{name}: faster" for name in lines[0]["speed_up"])],
        [
            [
                line["network"],
                line["batch"],
                *(f"{1e6 * line['seconds'][name]['p50']:.0f}" for name in names),
                *(f"{value:.2f}x" for value in line["speed_up"].values()),
            ]
            for line in lines
        ],
    )


def rbm_section(lines: Lines) -> Iterable[str]:
    yield "\n### Restricted Boltzmann machine, 784 visible units: ms per step on one thread, and times faster\n"
    names = [name for name in lines[0]["seconds"] if name != "scikit-learn"]
    rows = [[line["hidden"], line["batch"], f"{1e3 * line['seconds']['scikit-learn']['p50']:.2f}",
             *(f"{1e3 * line['seconds'][name]['p50']:.2f} ({line['speed_up'][name]:.2f}x, {line['share'][name]:.0%})"
               for name in names)] for line in lines]
    yield harness.table(["hidden", "batch", "scikit-learn", *names], rows)
    yield "\nIn brackets also the share of the product peak, as if zeros were multiplied: they are not."


def likelihood_section(lines: Lines) -> Iterable[str]:
    yield f"\n### Likelihood of MNIST's test images, nats, {lines[0]['epochs']} epochs\n"
    yield harness.table(likelihood.HEAD, [likelihood.row_of(line) for line in lines])


def tempering_section(lines: Lines) -> Iterable[str]:
    yield "\n### Tempering along a run's own past, exact nats of test rows\n"
    yield harness.table(tempering.HEAD, [tempering.row_of(line) for line in lines])


def when(header: dict[str, Any]) -> str:
    """When and on what a question was answered."""
    clock = ", in processor time" if header.get("clock") == "cpu" else ""
    first = ", before all other work (`chrt`)" if header.get("real_time") else ""
    return f"{header['date']}, commit {header['commit']}, load average at the start {header['load']:g}{clock}{first}"


def write(path: Path, lines: dict[str, Lines]) -> None:
    """Write the page from the lines of each question; a question without lines is left out."""
    answered = {question: given for question, given in lines.items() if given}
    header = {
        name: value for given in answered.values() for name, value in given[0].items() if value is not None
    }
    text = [
        "# Results of the benchmarks",
        "",
        f"{header['cpu']}, {header['cores']} cores, x86-64-v{header.get('simd_level', '?')}, oneDNN "
        f"{header.get('onednn', '?')}, PyTorch {header.get('torch', 'not installed')}, TensorFlow "
        f"{header.get('tensorflow', 'not installed')}, {header.get('mpi', 'no MPI')}; "
        "one thread per rank, unless said.",
        "Written by `make bench`. Medians; quotients are medians of pairs measured in turn; results were "
        "verified before anything was timed.",
        "",
        *(f"- {question}: {when(given[0])}" for question, given in answered.items()),
        "",
        "## Aims",
        "",
        harness.table(["what", "aim", "reached", "verdict"], [aim.row() for aim in aims(lines)]),
    ]
    sections: Sequence[tuple[str, Callable[[Lines], Iterable[str]]]] = (
        ("step", step_section),
        ("ranks", ranks_section),
        ("sum", sum_section),
        ("overhead", overhead_section),
        ("server_latency", server_section),
        ("auto", auto_section),
        ("split", split_section),
        ("threads", threads_section),
        ("server", asynchronous_section),
        ("convolution", convolution.section),
        ("adversarial_step", adversarial_step.section),
        ("torch_modules", torch_modules.section),
        ("rbm", rbm_section),
        ("likelihood", likelihood_section),
        ("tempering", tempering_section),
    )
    text += ["", "## Figures"]
    for question, section in sections:
        if lines[question]:
            text += section(lines[question])
    path.write_text("\n".join(text) + "\n")


def main(given: Sequence[str] | None = None) -> Path:
    options = harness.arguments(
        __doc__,
        given,
        page={"type": Path, "help": "instead of benchmarks/RESULTS.md, or of one in FOLDER for quick results"},
        readme={"type": Path, "help": "whose table to write; by default the clone's, and none for quick results"},
    )
    quick = options.size == "quick"
    page = options.page or (options.out if quick else harness.ROOT / "benchmarks") / "RESULTS.md"
    shown = options.readme or (None if quick else harness.ROOT / "README.md")
    lines = {question: harness.read(question, options.size, options.out) for question in QUESTIONS}
    if not any(lines.values()):
        raise SystemExit(
            f"{options.out} has no results of size {options.size}; run python -m benchmarks first"
        )
    write(page, lines)
    harness.show(f"wrote {page}")
    if shown is not None:
        readme.update(shown, lines)
        harness.show(f"wrote the table of {shown}")
    return page


if __name__ == "__main__":
    main()
