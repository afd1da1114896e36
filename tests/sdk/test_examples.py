"""The examples do what their sources say. Those that talk to each other are run together in tests/system."""

import json
import subprocess
import sys


def published(module, events: list[str]) -> list[tuple[str, str]]:
    words = [word for event in events for word in ("--event", event)]
    command = [sys.executable, "-m", "ota.cli.main", "run", str(module), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return [(each["topic"], each["payload"]) for each in said if each["what"] == "publish"]


def test_sampler_publishes_what_summary_sums_up(modules):
    samples = published(modules / "sampler.wasm", [f"sys/loadavg={number}.25 0.1 0.1 1/100 7" for number in range(5)])
    assert samples == [("local/samples/load", f"{number}.250") for number in range(5)]
    found = published(modules / "summary.wasm", [f"{topic}={payload}" for topic, payload in samples * 2])
    assert [topic for topic, _ in found] == ["summaries/load"] * 2
    assert [json.loads(payload) for _, payload in found] == [
        {"samples": 5, "mean": 2.25, "highest": 4.25},
        {"samples": 10, "mean": 2.25, "highest": 4.25},
    ]


def test_memory_answers_where_the_request_says_and_repeats_the_correlation_id(modules):
    asked = "local/memory/ask=local/advisor/answer\nid-7\nhow much?"
    said = published(modules / "memory.wasm", ["sys/meminfo=MemTotal: 4096 kB\nMemAvailable:   2048 kB\n", asked])
    assert said == [("local/advisor/answer", "id-7\n2.000")]


def test_advisor_takes_one_answer_to_each_question_and_none_to_others(modules):
    events = ["sys/loadavg=0.25 0 0 1/1 1", "sys/loadavg=0.50 0 0 1/1 1"]
    answers = [f"local/advisor/answer={number}\n{number}0.5" for number in (1, 1, 2, 1, 3)]
    said = published(modules / "advisor.wasm", [*events, *answers])
    assert said[:2] == [("local/memory/ask", f"local/advisor/answer\n{number}\nhow much memory is available?") for number in (1, 2)]
    assert [(topic, json.loads(payload)) for topic, payload in said[2:]] == [
        ("advice/load", {"question": 1, "load": 0.25, "available_mb": 10.5}),
        ("advice/load", {"question": 2, "load": 0.5, "available_mb": 20.5}),
    ]
