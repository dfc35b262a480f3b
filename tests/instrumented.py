"""The C built in another way, and tests with it, in a copy of the checkout.

    python -m tests.instrumented asan,gcov <what pytest takes>

`asan`: with AddressSanitizer, UndefinedBehaviorSanitizer and the assertions, which see that no
slot is read of an object whose class was not looked at. A finding ends its process, and is a
failure.

`gcov`: counts what ran. A line of which a comment on it or above it says `never: why` cannot run:
these are listed, and it is a fault if one did. Any other that did not is shown, and is a fault.
Then come the figures of each file.

Either of them may be left out.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LEFT = shutil.ignore_patterns(".git", ".tox", "build", "*.so", "*.egg-info", "__pycache__")

_SANITIZED = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
#: For the compiler, and for the linker.
FLAGS = {
    "asan": (f"-UNDEBUG {_SANITIZED}", "-fsanitize=address,undefined"),
    "gcov": ("--coverage", "--coverage"),
}
_NEVER = re.compile(r"never: (.*?) *\*/")
#: A line that leaves because something went wrong.
_EXIT = re.compile(r"return NULL|return -[12]|return RAISED|goto |not_bound|Py_CLEAR|= -1|failed")


def build(folder, kinds):
    compile_, link = (" ".join(flags) for flags in zip(*map(FLAGS.get, kinds), strict=True))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "CFLAGS": f"-g -O0 {compile_}", "LDFLAGS": link},
        check=True,
    )
    if not list(Path(folder, "thousand_island_sync").glob("_native.*.so")):
        raise SystemExit("the C was not built")


def runtime(name):
    asked = ["gcc", f"-print-file-name={name}"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        raise SystemExit(f"{name} is not to be found: install gcc's libraries")
    return found


def without_preload(folder, *names):
    """A folder of programs that are other people's, and stand still with our runtime in them."""
    folder.mkdir()
    for found in filter(None, map(shutil.which, names)):
        shim = Path(folder, Path(found).name)
        shim.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {found} "$@"\n')
        shim.chmod(0o755)
    return folder


def environment(folder, kinds, findings):
    # Programs that tests run in other folders take this one's, not what is installed.
    general = {**os.environ, "REQUIRE_NATIVE": "1", "PYTHONPATH": str(folder)}
    if "asan" not in kinds:
        return general
    programs = without_preload(findings / "programs", "curl")
    said = f"log_path={findings / 'finding'}"
    return {
        **general,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "LD_PRELOAD": runtime("libasan.so"),
        "ASAN_OPTIONS": f"detect_leaks=0:allow_user_segv_handler=1:{said}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{said}",
        "PYTHONMALLOC": "malloc",  # so that each object is a piece of memory of its own
    }


def tests(folder, kinds, arguments, findings):
    """What pytest ends with; 1 if there was a finding."""
    code = subprocess.run(
        [sys.executable, "-m", "tests.side_by_side", *arguments],
        cwd=folder,
        env=environment(folder, kinds, findings),
    ).returncode
    found = sorted(findings.glob("finding*"))
    for path in found:
        print(f"---- {path.name}", path.read_text(errors="replace"), sep="\n")
    if "asan" in kinds:
        print(f"asan: {len(found)} findings")
    return code or (1 if found else 0)


# ---- what ran -------------------------------------------------------------------


def counted(folder):
    """For each file: line -> how often it ran."""
    lines = {}
    for notes in sorted(Path(folder, "build").rglob("*.gcda")):
        subprocess.run(
            ["gcov", "--json-format", str(notes)],
            cwd=notes.parent,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for report in notes.parent.glob("*.gcov.json.gz"):
            for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                if "native/" not in file["file"]:
                    continue
                seen = lines.setdefault(Path(file["file"]).name, {})
                for line in file["lines"]:
                    number = line["line_number"]
                    seen[number] = seen.get(number, 0) + line["count"]
            report.unlink()
    return lines


def report(folder):
    """Prints it; how many lines did not run that ought to, or ran that cannot."""
    faults = 0
    totals = [0] * 5
    for name, lines in sorted(counted(folder).items()):
        source = ["", *Path(folder, "native", name).read_text().splitlines()]
        figures = [0] * 5  # lines, of these run, error exits, of these run, never
        for number, count in sorted(lines.items()):
            is_exit = bool(_EXIT.search(source[number]))
            never = _NEVER.search(source[number]) or _NEVER.search(source[number - 1])
            figures[0] += 1
            figures[1] += count > 0
            figures[2] += is_exit
            figures[3] += is_exit and count > 0
            figures[4] += never is not None
            if never:
                print(f"{name}:{number}: never runs: {never[1]}")
            if (count == 0) is (never is None):
                faults += 1
                said = "ran" if count else "did not run"
                print(f"{name}:{number}: {said}: {source[number].strip()}")
        totals = [a + b for a, b in zip(totals, figures, strict=True)]
        show(name, figures)
    show("all", totals)
    return faults


def show(name, figures):
    lines, ran, exits, exits_ran, never = figures
    print(f"{name}: lines {ran} of {lines}, error exits {exits_ran} of {exits}; never {never}")


def main(arguments):
    kinds = arguments[0].split(",")
    with tempfile.TemporaryDirectory() as place:
        folder, findings = Path(place, "checkout"), Path(place, "findings")
        shutil.copytree(ROOT, folder, ignore=_LEFT)
        findings.mkdir()
        build(folder, kinds)
        code = tests(folder, kinds, arguments[1:], findings)
        faults = report(folder) if "gcov" in kinds else 0
        return code or min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
