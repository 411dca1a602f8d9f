# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The loopback Hub against unmodified clients: what the other tests here stand on."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLIENT = """
import os, tempfile
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

def raised(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return None

def fresh(name, **options):
    return open(hf_hub_download("alice/m", name, cache_dir=tempfile.mkdtemp(), **options), "rb").read()
"""


def test_upload_list_download(hub, run_with_hub):
    hub.page_size = 2
    code = f"""{CLIENT}
api = HfApi()
assert api.whoami()["name"] == "alice"
url = api.create_repo("alice/m", private=True)
assert url.repo_id == "alice/m" and api.create_repo("m", exist_ok=True).repo_id == "alice/m"
assert raised(api.create_repo, "alice/m") == "HfHubHTTPError"
assert raised(api.create_repo, "carol/m") == "HfHubHTTPError"
os.makedirs("folder/sub")
weights = os.urandom(200_000)
for name, content in (("a.txt", b"one"), ("model.safetensors", weights), ("sub/b.txt", b""), ("sub/c.txt", b"three")):
    open(f"folder/{{name}}", "wb").write(content)
first = api.upload_folder(repo_id="alice/m", folder_path="folder")
assert api.upload_folder(repo_id="alice/m", folder_path="folder").oid == first.oid
assert sorted(api.list_repo_files("alice/m")) == ["a.txt", "model.safetensors", "sub/b.txt", "sub/c.txt"]
assert fresh("model.safetensors") == weights and fresh("sub/b.txt") == b""
found = api.get_paths_info("alice/m", ["model.safetensors", "sub", "none"], expand=False)
assert found[0].lfs.size == 200_000 and len(found) == 2
info = api.model_info("alice/m", files_metadata=True)
assert info.sha == first.oid and info.private and len(info.siblings) == 4
api.create_branch("alice/m", branch="v1")
api.create_tag("alice/m", tag="t1")
api.upload_file(repo_id="alice/m", path_or_fileobj=b"two", path_in_repo="a.txt", revision="v1")
assert (fresh("a.txt"), fresh("a.txt", revision="v1"), fresh("a.txt", revision="t1")) == (b"one", b"two", b"one")
assert [b.name for b in api.list_repo_refs("alice/m").branches] == ["main", "v1"]
stale = dict(repo_id="alice/m", path_or_fileobj=b"q", path_in_repo="q", parent_commit="0" * 40)
assert raised(api.upload_file, **stale) == "HfHubHTTPError"
bad = dict(repo_id="alice/m", path_or_fileobj=b"---\\na: [\\n---\\n", path_in_repo="README.md")
assert raised(api.upload_file, **bad) == "ValueError"
api.delete_file("sub/c.txt", "alice/m")
assert len(os.listdir(snapshot_download("alice/m"))) == 3
api.delete_repo("alice/m")
assert raised(api.model_info, "alice/m") == "RepositoryNotFoundError"
"""
    run_with_hub(code, hub)
    assert ("model", "alice/m") not in hub.repositories
    elsewhere = [request for request in hub.log if request.path.startswith("/objects/")]
    assert elsewhere and not any(request.token for request in elsewhere)
    assert sum("cursor=" in request.path for request in hub.log) >= 1
    # A part of a large file was uploaded once, although it was pushed twice.
    assert [request.method for request in elsewhere].count("PUT") == 1


def test_private_gated_and_missing(hub, run_with_hub):
    hub.seed("model", "alice/m", {"a.txt": b"one"}, private=True)
    hub.seed("model", "alice/gated", {"a.txt": b"one"}, gated="manual")
    code = f"""{CLIENT}
assert fresh("a.txt") == b"one"
assert raised(fresh, "a.txt", token=False) == raised(fresh, "a.txt", token="hf_bob") == "RepositoryNotFoundError"
assert raised(HfApi(token="hf_wrong").whoami) == "HfHubHTTPError"
assert raised(HfApi(token="hf_alice_read").upload_file, repo_id="alice/m", path_or_fileobj=b"", path_in_repo="b")
assert raised(HfApi(token="hf_bob").upload_file, repo_id="alice/m", path_or_fileobj=b"", path_in_repo="b")
assert raised(fresh, "b") == "RemoteEntryNotFoundError", raised(fresh, "b")
assert raised(fresh, "a.txt", revision="v9") == "RevisionNotFoundError"
assert raised(hf_hub_download, "alice/gated", "a.txt", token="hf_bob") == "GatedRepoError"
hf_hub_download("alice/gated", "a.txt")
"""
    run_with_hub(code, hub)
    assert hub.files("model", "alice/m") == {"a.txt": b"one"}


def test_faults(hub, run_with_hub):
    weights = np.random.default_rng(0).bytes(300_000)
    hub.seed("model", "alice/m", {"model.safetensors": weights, "a.txt": b"one"})
    hub.fail(r"GET /objects/", cut=100_000)
    hub.fail(r"HEAD .*a\.txt", 500)
    hub.fail(r"PUT /objects/", 503)
    hub.fail(r"POST .*/commit/", reset=True)
    code = f"""{CLIENT}
assert len(fresh("model.safetensors")) == 300_000
fresh("a.txt")
error = raised(HfApi().upload_file, repo_id="alice/m", path_or_fileobj=b"x" * 9, path_in_repo="b.bin")
assert error in ("ReadError", "RemoteProtocolError"), error
HfApi().upload_file(repo_id="alice/m", path_or_fileobj=b"x" * 9, path_in_repo="b.bin")
"""
    run_with_hub(code, hub)
    assert hub.files("model", "alice/m")["b.bin"] == b"x" * 9
    seen = [(request.method, request.status) for request in hub.log]
    assert ("HEAD", 500) in seen and ("PUT", 503) in seen and ("POST", "RESET") in seen
    # The client asks again, from the last whole 10 MiB on: here from the start.
    assert seen.count(("GET", 200)) >= 2


def parquet(n: int) -> bytes:
    def jpeg(i: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(file, "JPEG")
        return file.getvalue()

    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(n)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}
    table = pa.table({"image": images, "label": list(range(n))})
    file = io.BytesIO()
    described = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(described), file, row_group_size=5)
    return file.getvalue()


def test_datasets_stream_and_load(hub, run_with_hub):
    shards = {f"data/train-0000{i}-of-00002.parquet": parquet(10) for i in range(2)}
    hub.seed("dataset", "alice/pictures", shards, private=True)
    hub.fail(r"GET /objects/", 500, after=2)
    code = """
import datasets
datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0.1
try:
    datasets.load_dataset("alice/pictures", split="train", streaming=True, token="hf_bob")
except datasets.exceptions.DatasetNotFoundError:
    print("refused")
rows = list(datasets.load_dataset("alice/pictures", split="train", streaming=True))
assert [row["label"] for row in rows] == [*range(10)] * 2 and rows[3]["image"].size == (8, 8)
assert len(datasets.load_dataset("alice/pictures", split="train")) == 20
"""
    assert run_with_hub(code, hub).stdout.strip() == "refused"
    assert any(request.status == 206 for request in hub.log)
