"""Hashing a file of several gigabytes: cold against the disk, warm against MD5, not at all when nothing changed; and
how long it takes until a known artifact of that size is there again.

The file is a model's weights that `load` reads into its key and links. `plan` with an empty outputs folder reads it
once and does nothing else of weight. Restoring means: `outputs/latest` is gone, a run finds the result in the store,
checks that it is whole, and links it again; nothing is copied.
"""

import shutil
import subprocess

from . import graphs
from .measure import Series, drop_from_cache, run, series
from .tools import executed, version


def measure(bench) -> None:
    """Everything on one file."""
    folder = bench.work / "hashing"
    folder.mkdir(parents=True, exist_ok=True)
    path = graphs.weights(folder, bench.args.gigabytes)
    size = path.stat().st_size / 1e9
    rounds, calm = bench.args.rounds, bench.calm
    words = ["weights.toml", "--root", ".", "--outputs"]
    about = f"{size:.1f} GB"

    def direct() -> float:
        return size / run(["dd", f"if={path}", "of=/dev/null", "bs=8M", "iflag=direct", "status=none"], folder).seconds

    cold, warm, one = f"cold read, {about}", f"warm, {about}, all cores", f"warm, {about}, one core"
    bench.add("hashing", cold, "dd iflag=direct", "", series(rounds, direct, *calm), "GB/s",
              shown="dd bs=8M iflag=direct")
    if bench.anneal:
        def hashed(dropped: bool, core: int | None) -> float:
            shutil.rmtree(folder / "fresh", ignore_errors=True)
            if dropped:
                drop_from_cache(path)
            return size / run([bench.args.anneal, "plan", *words, "fresh"], folder, core=core).seconds

        told = bench.anneal.version
        bench.add("hashing", cold, "anneal", told, series(rounds, lambda: hashed(True, None), *calm), "GB/s",
                  shown="plan, nothing known", target={"at_least": 0.9, "of": "dd iflag=direct", "figure": cold})
    subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)
    last = max(bench.cores)
    md5 = series(rounds, lambda: size / run(["md5sum", path], folder, core=last).seconds, *calm)
    bench.add("hashing", one, "md5sum", version(["md5sum", "--version"]), md5, "GB/s", shown="taskset, md5sum")
    if not bench.anneal:
        return
    bench.add("hashing", one, "anneal", told, series(rounds, lambda: hashed(False, last), *calm), "GB/s",
              shown="taskset, plan, nothing known", target={"at_least": 3.0, "of": "md5sum", "figure": one})
    bench.add("hashing", warm, "anneal", told, series(rounds, lambda: hashed(False, None), *calm), "GB/s",
              shown="plan, nothing known")
    nothing_read(bench, folder, words, about, path)


def nothing_read(bench, folder, words: list, about: str, path) -> None:
    """The run that finds everything: what it reads, which blobs it opens, and how long it takes."""
    told, rounds, calm = bench.anneal.version, bench.args.rounds, bench.calm
    build = [bench.args.anneal, "run", *words, "outputs"]
    run(build, folder)
    run(build, folder)
    assert executed(build, folder) == 0
    read = []

    def again() -> float:
        ran = run(build, folder)
        read.append(ran.read_bytes)
        return ran.seconds * 1e3

    found = series(rounds, again, *calm)
    bench.add("hashing", f"no-op with {about}", "anneal", told, found, "ms", shown="run")
    bench.add("hashing", f"no-op with {about}: all bytes it reads", "anneal", told,
              Series(read, found.others_cores, found.load), "bytes", shown="rchar of /proc/PID/io")
    if version(["strace", "--version"]):
        trace = folder / "trace"
        run(["strace", "-f", "-o", trace, "-e", "trace=open,openat,openat2", *build], folder)
        opened = (line for line in trace.read_text().splitlines() if "O_PATH" not in line)
        blobs = [line for line in opened if "/trees/" in line or "model.safetensors" in line]
        bench.add("hashing", f"no-op with {about}: blobs opened", "anneal", told, Series([len(blobs)], 0, 0), "",
                  shown="strace -f -e trace=open,openat,openat2", target={"at_most": 0})
        trace.unlink()
    link = folder / "outputs" / "latest" / "weights" / "base"

    def restored() -> float:
        shutil.rmtree(folder / "outputs" / "latest")
        seconds = run(build, folder).seconds
        assert (link / "model.safetensors").stat().st_size == path.stat().st_size
        return seconds * 1e3

    bench.add("hashing", f"an artifact of {about} linked again", "anneal", told, series(rounds, restored, *calm), "ms",
              shown="rm -r outputs/latest; run", target={"at_most": 20.0})
