# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the loopback Hub answers to each request."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml

from hub.connection import Connection
from hub.repository import Refusal, Repository, Stored, folder_entry


class Protocol(Connection):
    """The routes, each a method that gets the body and the named parts of its address."""

    # ---- Account and repositories

    def whoami(self, _) -> None:
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.account.role}}
        orgs = [{"type": "org", "name": org} for org in self.account.orgs]
        self.send_json({"type": "user", "name": self.account.name, "orgs": orgs, "auth": token})

    def create_repo(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        type, id = asked.get("type") or "model", f"{asked.get('organization') or self.account.name}/{asked['name']}"
        if not self.account.owns(id) or self.account.role != "write":
            raise Refusal(403, f"You don't have the rights to create {id}")
        repository = Repository(type, id, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        url = f"{self.hub.url}/{repository.address}"
        if (type, id) in self.hub.repositories:
            raise Refusal(409, f"You already created this {type} repo: {id}", url=url)
        self.hub.repositories[type, id] = repository
        self.send_json({"url": url, "name": id, "id": id})

    def delete_repo(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or (self.account.name if self.account else "")
        type, id = asked.get("type") or "model", f"{owner}/{asked['name']}"
        self.hub.find(type, id, self.account, write=True)
        del self.hub.repositories[type, id]
        self.send_json({})

    def validate_yaml(self, body: bytes) -> None:
        front = re.match(r"---\r?\n(.*?)\r?\n---", json.loads(body)["content"], re.DOTALL)
        errors = []
        try:
            yaml.safe_load(front.group(1) if front else "")
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    # ---- Reading

    def info(self, _, type: str, id: str, revision: str = "main") -> None:
        self.send_json(self.hub.find(type, id, self.account).described(revision))

    def refs(self, _, type: str, id: str) -> None:
        found = self.hub.find(type, id, self.account)
        listed = {
            kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": sha} for name, sha in names.items()]
            for kind, ref, names in (("branches", "heads", found.branches), ("tags", "tags", found.tags))
        }
        self.send_json({**listed, "converts": []})

    def tree(self, _, type: str, id: str, revision: str, folder: str = "") -> None:
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        entries = self.hub.find(type, id, self.account).entries(revision, folder, recursive)
        start, headers = int(self.query.get("cursor", 0)), {}
        stop = start + self.hub.page_size
        if stop < len(entries):
            following = urlencode({**self.query, "cursor": stop})
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{following}>; rel="next"'
        self.send_json(entries[start:stop], headers=headers)

    def paths_info(self, body: bytes, type: str, id: str, revision: str) -> None:
        files = self.hub.find(type, id, self.account).at(revision).files
        asked = [path.strip("/") for path in parse_qs(body.decode()).get("paths", [])]
        folders = [p for p in asked if p not in files and any(name.startswith(f"{p}/") for name in files)]
        self.send_json([files[p].entry(p) for p in asked if p in files] + [folder_entry(p) for p in folders])

    def resolve(self, _, id: str, revision: str, path: str, type: str = "model") -> None:
        repository = self.hub.find(type, id, self.account)
        if repository.gated and not (self.account and self.account.owns(id)):
            raise Refusal(403 if self.account else 401, f"Access to {type} {id} is restricted.", "GatedRepo")
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", headers)
        stored = commit.files[path]
        if not stored.large:
            return self.send_content(stored.content, {**headers, "ETag": f'"{stored.git_oid}"'})
        self.hub.objects[stored.sha256] = stored.content
        linked = {"X-Linked-Etag": f'"{stored.sha256}"', "X-Linked-Size": len(stored.content)}
        self.send_bytes(b"", 302, {**headers, **linked, "Location": f"{self.hub.objects_url}/{stored.sha256}?sig=1"})

    def get_object(self, _, oid: str) -> None:
        if "Authorization" in self.headers:
            raise Refusal(400, "A signed address takes no token beside its signature")
        self.send_content(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    # ---- Writing

    def preupload(self, body: bytes, type: str, id: str, revision: str) -> None:
        files, answers = self.hub.find(type, id, self.account, write=True).at(revision).files, []
        for asked in json.loads(body)["files"]:
            large, old = self.hub.is_large(asked["path"], asked["size"]), files.get(asked["path"])
            known = {"oid": old.sha256 if large else old.git_oid} if old and old.large == large else {}
            mode = "lfs" if large else "regular"
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        self.send_json({"files": answers})

    def lfs_batch(self, body: bytes, id: str, type: str = "model") -> None:
        self.hub.find(type, id, self.account, write=True)
        answers = []
        for asked in json.loads(body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
            if asked["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.objects_url}/{asked['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            answers.append(answer)
        self.send_json({"transfer": "basic", "objects": answers})

    def put_object(self, body: bytes, oid: str) -> None:
        if Stored(body).sha256 != oid:
            raise Refusal(400, "The content is not what its name says")
        self.hub.objects[oid] = body
        self.send_bytes()

    def lfs_verify(self, body: bytes) -> None:
        asked = json.loads(body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object is missing")
        self.send_json({})

    def commit(self, body: bytes, type: str, id: str, revision: str) -> None:
        repository = self.hub.find(type, id, self.account, write=True)
        base = repository.at(revision)
        files, title = dict(base.files), ""
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            path = value.get("path", "")
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, base.sha):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[path] = Stored(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, f"The object of {path} was never uploaded")
                files[path] = Stored(self.hub.objects[value["oid"]], large=True)
            elif operation["key"] in ("deletedFile", "deletedFolder"):
                files = {p: s for p, s in files.items() if p != path and not p.startswith(f"{path.rstrip('/')}/")}
        commit = repository.add(revision, files, title)
        url = f"{self.hub.url}/{repository.address}/commit/{commit.sha}"
        self.send_json({"success": True, "commitOid": commit.sha, "commitUrl": url, "pullRequestUrl": None})

    def make_ref(self, body: bytes, type: str, id: str, kind: str, name: str) -> None:
        repository, asked = self.hub.find(type, id, self.account, write=True), json.loads(body or b"{}")
        if kind == "branch":
            names, start = repository.branches, asked.get("startingPoint") or "main"
        else:
            names, name, start = repository.tags, asked["tag"], name
        if name in names:
            raise Refusal(409, f"Reference already exists: {name}")
        names[name] = repository.at(start).sha
        self.send_json({})


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<type>model|dataset)s/{_ID}"
_PLAIN = rf"/(?:(?P<type>dataset)s/)?{_ID}"
_REV = r"(?P<revision>refs%2F\w+%2F[^/]+|refs/(?:pr|convert)/[^/]+|[^/]+)"
Protocol.routes = [
    (methods.split(), re.compile(pattern), route)
    for methods, pattern, route in (
        ("GET", "/api/whoami-v2", Protocol.whoami),
        ("POST", "/api/repos/create", Protocol.create_repo),
        ("DELETE", "/api/repos/delete", Protocol.delete_repo),
        ("POST", "/api/validate-yaml", Protocol.validate_yaml),
        ("GET", rf"{_API}(?:/revision/{_REV})?", Protocol.info),
        ("GET", rf"{_API}/refs", Protocol.refs),
        ("GET", rf"{_API}/tree/{_REV}(?:/(?P<folder>.+))?", Protocol.tree),
        ("POST", rf"{_API}/paths-info/{_REV}", Protocol.paths_info),
        ("POST", rf"{_API}/preupload/{_REV}", Protocol.preupload),
        ("POST", rf"{_API}/commit/{_REV}", Protocol.commit),
        ("POST", rf"{_API}/(?P<kind>branch|tag)/(?P<name>[^/]+)", Protocol.make_ref),
        ("POST", rf"{_PLAIN}\.git/info/lfs/objects/batch", Protocol.lfs_batch),
        ("POST", "/lfs-verify", Protocol.lfs_verify),
        ("PUT", r"/objects/(?P<oid>[0-9a-f]{64})", Protocol.put_object),
        ("GET HEAD", r"/objects/(?P<oid>[0-9a-f]{64})", Protocol.get_object),
        ("GET HEAD", rf"{_PLAIN}/resolve/{_REV}/(?P<path>.+)", Protocol.resolve),
    )
]
