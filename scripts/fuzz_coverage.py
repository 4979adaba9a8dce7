"""Says which lines each fuzz target's corpus reaches in the modules that the target is for (scripts/fuzz.sh coverage).

Usage: fuzz_coverage.py FOLDER TARGET... , where FOLDER has TARGET.lcov for each target.
"""

import pathlib
import sys

# The modules that a target is for; everything below a folder belongs to it, except for tests.
MODULES = {
    "amf_guard": ["rtmp/src/amf.rs"],
    "audience": ["audience/src"],
    "chunk_reader": ["rtmp/src/chunk.rs", "rtmp/src/chunk", "rtmp/src/session.rs", "rtmp/src/session"],
    "codec_facts": ["media/src"],
    "flv": ["rtmp/src/flv", "rtmp/src/ingest.rs"],
    "packager": ["hls/src/packager.rs", "hls/src/packager", "hls/src/fmp4"],
    "proxy_header": ["listen/src/proxy.rs"],
    "stored_playlists": ["hls/src/resume.rs", "hls/src/resume", "hls/src/presentation.rs"],
    "stored_records": ["encoder/src/archive/page.rs", "encoder/src/delivery/takeover"],
    "timeline": ["rtmp/src/timeline"],
    "tokens": ["admission/src"],
    "worker_protocol": ["transcode/src/wire", "transcode/src/wire.rs"],
}
TESTS = ("tests.rs", "testing.rs", "_tests.rs", "fuzzing.rs")


def lines_by_file(lcov):
    """Hits of each line of each file of the project."""
    root = str(pathlib.Path.cwd()) + "/"
    files, hits = {}, None
    for line in lcov.read_text().splitlines():
        if line.startswith("SF:"):
            path = line[3:].removeprefix(root)
            hits = files.setdefault(path, {})
        elif line.startswith("DA:"):
            number, count = line[3:].split(",")[:2]
            hits[int(number)] = hits.get(int(number), 0) + int(count)
    return files


def ranges(numbers):
    """[1, 2, 3, 7] as "1-3, 7"."""
    text, start, last = [], None, None
    for number in [*numbers, None]:
        if start is not None and number != last + 1:
            text.append(f"{start}-{last}" if last > start else str(start))
            start = None
        if start is None:
            start = number
        last = number
    return ", ".join(text)


def main(folder, targets):
    for target in targets:
        files = lines_by_file(pathlib.Path(folder) / f"{target}.lcov")
        wanted = sorted(
            path
            for path in files
            if any(path == module or path.startswith(module + "/") for module in MODULES[target])
            and not path.endswith(TESTS)
        )
        total = sum(len(files[path]) for path in wanted)
        reached = sum(hits > 0 for path in wanted for hits in files[path].values())
        print(f"{target}: {reached} of {total} lines ({100 * reached // max(total, 1)} %)")
        for path in wanted:
            source = pathlib.Path(path).read_text().splitlines()
            # Inline tests are no part of the module.
            end = next((n for n, line in enumerate(source, 1) if line.startswith("mod tests {")), len(source))
            missed = [number for number, hits in sorted(files[path].items()) if hits == 0 and number <= end]
            print(f"  {path}: {len(files[path]) - len(missed)} of {len(files[path])}" + (f"; not {ranges(missed)}" if missed else ""))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
