"""`motley finetune` from the front door: the good way, and one line for every mistake."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.torch import load_file, save_file
from toy_job import CHAT_TEMPLATE, job_content, write_job, write_toy_model

import motley


@pytest.fixture
def job_file(toy_model, texts, tmp_path):
    """Write toy jobs with some keys changed; return the file."""

    def write(**changes):
        content = job_content(toy_model, texts, output=tmp_path / "run", **changes)
        return write_job(tmp_path / "job.yaml", content)

    return write


@pytest.fixture
def endpoint():
    """A loopback endpoint; see `serving`."""
    with serving() as served:
        yield served


@pytest.fixture
def another_endpoint():
    """A second one."""
    with serving() as served:
        yield served


@contextmanager
def serving():
    """Yield address, bodies and answers of an endpoint: it notes the former, gives the latter."""
    bodies, answers = [], [(200, "Success")]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["content-length"])
            bodies.append((self.path, json.loads(self.rfile.read(length))))
            status, text = answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies, answers
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def fails(capsys, *words, exit_code=2):
    """Run `motley finetune`, check that it fails in one line, and return the line."""
    capsys.readouterr()
    assert motley.main(["finetune", *map(str, words)]) == exit_code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("motley: error: ")]
    assert len(lines) == 1
    assert lines[0] != "motley: error: "
    return lines[0]


def test_run_then_publish(job_file, tmp_path, capsys, endpoint):
    """A run prints the loss table; its adapter goes to the endpoint by absolute path."""
    address, bodies, answers = endpoint
    folder = tmp_path / "elsewhere"
    assert motley.main(["finetune", "run", str(job_file()), "--output", str(folder)]) == 0
    printed, progress = capsys.readouterr()
    assert "round 1/3 began" in progress
    for number in (1, 2, 3):
        (line,) = (row for row in progress.splitlines() if row.startswith(f"round {number}/3  "))
        assert "held out, as it began: " in line
        assert " down, " in line
        assert "  3 clients" in line
    for word in ("numbers", "colours", "animals", "mean", "worst", str(folder / "adapter")):
        assert word in printed
    words = ["publish", str(folder / "adapter"), "--endpoint", address, "--name", "mine"]
    assert motley.main(["finetune", *words]) == 0
    assert "'mine'" in capsys.readouterr().out
    path = str((folder / "adapter").resolve())
    assert bodies == [("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": path})]
    answers[0] = (400, json.dumps({"error": {"message": "'mine' is loaded; unload it"}}))
    assert "'mine' is loaded; unload it" in fails(capsys, *words, exit_code=1)


def test_publishing_goes_to_every_endpoint(job_file, tmp_path, capsys, endpoint, another_endpoint):
    """One that serves another base model refuses; the others have the adapter, and each has a line."""
    address, bodies, _ = endpoint
    other, other_bodies, other_answers = another_endpoint
    refusal = {"error": {"message": "the adapter is for another base model"}}
    other_answers[0] = (400, json.dumps(refusal))
    assert motley.main(["finetune", "run", str(job_file(rounds=1))]) == 0
    adapter = str(tmp_path / "run" / "adapter")
    capsys.readouterr()
    words = ["publish", adapter, other, "http://127.0.0.1:9", address, "--name", "mine"]
    assert motley.main(["finetune", *words]) == 1
    printed, error = capsys.readouterr()
    first, second, third = printed.splitlines()
    assert first.startswith(f"{other} failed: loading 'mine' into {other} failed (HTTP 400)")
    assert first.endswith("the adapter is for another base model")
    assert second.startswith("http://127.0.0.1:9 failed: ")
    assert third == f"{address} answers under the model name 'mine'"
    assert "2 of 3 endpoints did not take the adapter" in error
    assert len(bodies) == len(other_bodies) == 1
    other_answers[0] = (200, "Success")
    words = ["publish", adapter, other, "--endpoint", address, "--name", "mine"]
    assert motley.main(["finetune", *words]) == 0
    assert "stands twice" in fails(capsys, "publish", adapter, other, f"{other}/v1", "--name", "m")
    assert "is no address" in fails(capsys, "publish", adapter, address, "nowhere", "--name", "m")
    assert len(bodies) == 2


def test_chats_are_rendered_by_the_models_template(job_file, tmp_path):
    """A client may hold messages instead of texts."""
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"say {number} and some more words"}]}
        for number in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = job_file(
        model=str(write_toy_model(tmp_path / "model", chat_template=CHAT_TEMPLATE)),
        clients=[{"name": "chats", "data": {"kind": "jsonl", "path": str(path)}}],
    )
    assert motley.main(["finetune", "run", str(file)]) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rat": 1}, "learning_rat: unknown key"),
        ({"schema_version": 2}, "schema_version"),
        ({"rank": 0}, "rank"),
        ({"final_rank": 4}, "final_rank: 4 is above rank 2"),
        (
            {"rank": 64, "final_rank": 2},
            "reached in 6 stages [64, 32, 16, 8, 4, 2], which 3 rounds",
        ),
        (
            {"clients": [{"name": "c", "rank": 3, "data": {"kind": "package", "name": "rich"}}]},
            "'c' has rank 3, above the job's 2",
        ),
        ({"aggregation": "mean"}, "aggregation"),
        ({"rounds": None}, "rounds: is required"),
        ({"held_out_fraction": 1.0}, "held_out_fraction"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"clients": []}, "clients"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ["q_proj", "q_proj"]}, "'q_proj' stands 2 times"),
        ({"target_modules": ["q_proj", "nothing"]}, "'nothing' names no linear layer"),
        ({"target_modules": ["model"]}, "'model' names no linear layer"),
        (
            {"sparsity": {"download_density": 0, "upload_density": 1}},
            "sparsity.download_density",
        ),
        (
            {"sparsity": {"download_density": 1, "upload_density": 1, "download": "all"}},
            "sparsity.download",
        ),
        ({"model": "no/such/folder"}, "no such folder"),
        ({"model": "./nothing"}, "no such folder"),
        ({"sequence_tokens": 4096}, "sequence_tokens 4096 is more than the 128"),
        ({"clients": [{"name": "c", "data": {"kind": "sql", "path": "x"}}]}, "kind"),
        (
            {"clients": [{"name": "c", "data": {"kind": "jsonl", "path": "no.jsonl"}}]},
            "no such file",
        ),
        ({"clients": [{"name": "c", "data": {"kind": "package", "name": "nopkg"}}]}, "'nopkg'"),
        ({"clients": [{"name": "c", "data": {"kind": "package", "name": "sys"}}]}, "holds no text"),
        ({"clients": [{"name": "c", "data": {"kind": "package", "name": "a.b"}}]}, "package.name"),
        (
            {"clients": [{"name": "c", "data": {"kind": "package", "name": "rich"}}] * 2},
            "'c' stands 2 times",
        ),
    ],
)
def test_a_bad_job_is_one_line_and_leaves_nothing(job_file, tmp_path, capsys, changes, says):
    """Whatever is wrong with a job: exit code 2, one line that names it, no run folder."""
    assert says in fails(capsys, "run", job_file(**changes))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_model_is_named(job_file, tmp_path, capsys):
    """A folder without weights, and one whose files are broken, are both the user's to mend."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no .safetensors weights" in fails(capsys, "run", job_file(model=str(empty)))
    (empty / "model.safetensors").write_bytes(b"torn")
    (empty / "config.json").write_text("{}")
    assert "cannot be loaded" in fails(capsys, "run", job_file(model=str(empty)))
    broken = write_toy_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"torn")
    assert "cannot be loaded" in fails(capsys, "run", job_file(model=str(broken)))


def test_a_model_that_lacks_weights_is_not_trained(job_file, tmp_path, capsys):
    """What is missing would be random numbers; the line names it, and its shape where that is off."""
    model = write_toy_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    norm = tensors["model.layers.0.input_layernorm.weight"]
    tensors["model.layers.0.input_layernorm.weight"] = norm[:3].contiguous()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    line = fails(capsys, "run", job_file(model=str(model)))
    assert "model.layers.1.mlp.up_proj.weight is missing" in line
    assert "model.layers.0.input_layernorm.weight is (3,), not (32,)" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("\n", "holds no text"),
        ('{"text": "long"}', "a single document"),
        ('{"text": "a"}\n{"text": "b"}', "2 training tokens do not fill one sequence of 24"),
        ("{", "client.jsonl:1: malformed JSON"),
        ('{"text": ' + "1" * 5000 + "}", "client.jsonl:1: malformed JSON"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "no chat template"),
    ],
)
def test_a_client_with_too_little_text_is_named(job_file, tmp_path, capsys, lines, says):
    """Empty, tiny or malformed files: the line names the client and what is wrong."""
    path = tmp_path / "client.jsonl"
    path.write_text(lines)
    clients = [{"name": "c", "data": {"kind": "jsonl", "path": str(path)}}]
    line = fails(capsys, "run", job_file(clients=clients))
    assert "client 'c': " in line
    assert says in line
    assert not (tmp_path / "run").exists()


def test_an_occupied_folder_is_left_alone(job_file, tmp_path, capsys):
    """A folder with something else in it is not written to; neither is a file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "holds no run" in fails(capsys, "run", job_file())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    assert "is no folder" in fails(capsys, "run", job_file(), "--output", tmp_path / "file")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["run", "missing.yaml"],
        ["train"],
        ["publish"],
        ["publish", "missing", "--name", "x"],
        ["publish", "missing", "--endpoint", "http://127.0.0.1:1", "--name", "x"],
        ["publish", "x", "--endpoint", "http://h", "--name", "x", "--api-key-file", "missing"],
    ],
)
def test_usage_mistakes_are_one_line(capsys, words):
    """Missing words, files and folders: exit code 2 and one line."""
    fails(capsys, *words)


def test_an_endpoint_that_is_not_there(job_file, tmp_path, capsys):
    """Nobody listening: one line, exit code 1."""
    assert motley.main(["finetune", "run", str(job_file(rounds=1))]) == 0
    words = ["--endpoint", "http://127.0.0.1:9", "--name", "x"]
    line = fails(capsys, "publish", tmp_path / "run" / "adapter", *words, exit_code=1)
    assert "cannot be reached" in line
