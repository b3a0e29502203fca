"""Writes the logs of this example: a made-up web service's. The same seed gives the same files."""

import pathlib
import random

PATHS = ["/api/v1/users", "/api/v1/orders", "/api/v1/orders/export", "/health", "/login", "/static/app.js", "/metrics"]
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0", "python-requests/2.32", "Prometheus/2.53"]


def line(rng, second):
    clock = f"2026-03-{1 + second // 86_400:02}T{second // 3_600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"
    host = f"web-{rng.randrange(4)}"
    kind = rng.random()
    if kind < 0.75:
        status = rng.choices([200, 201, 304, 404, 500], [80, 6, 8, 5, 1])[0]
        path = rng.choices(PATHS, [30, 25, 2, 20, 5, 10, 8])[0]
        return (
            f'{clock} {host} INFO request method={"POST" if status == 201 else "GET"} path={path} status={status} '
            f'duration_ms={int(rng.lognormvariate(3, 1))} bytes={rng.randrange(120, 9_000)} '
            f'client=10.{rng.randrange(4)}.{rng.randrange(256)}.{rng.randrange(256)} agent="{rng.choice(AGENTS)}"'
        )
    if kind < 0.9:
        return f"{clock} {host} DEBUG cache lookup key=session:{rng.getrandbits(48):012x} hit={rng.choice(['true', 'false'])}"
    if kind < 0.98:
        return f"{clock} {host} WARN database slow query table=orders rows={rng.randrange(100_000)} duration_ms={rng.randrange(500, 9_000)}"
    return f"{clock} {host} ERROR worker retry queue=mail attempt={rng.randrange(1, 6)} error=\"connection reset by peer\""


def part(rng, folder, items):
    folder.mkdir(parents=True, exist_ok=True)
    second = rng.randrange(86_400)
    with open(folder / "inputs", "w") as inputs:
        for _ in range(items):
            lines = []
            for _ in range(25):
                second += rng.randrange(3)
                lines.append(line(rng, second))
            # An item is one line: the log's own line breaks are written as a bar.
            inputs.write("|".join(lines) + "\n")


def main():
    here = pathlib.Path(__file__).parent
    rng = random.Random(402)
    part(rng, here / "public", 40)
    part(rng, here / "held-out", 40)


main()
