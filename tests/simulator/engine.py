"""An engine in memory: indexes, their aliases, and the document by which coordinators lock each other out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson

from knnex.engines import Flow, Request, Response
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.gate import refused
from knnex.engines.wire import drive
from knnex.errors import EngineBusy, EngineUnreachable

from .schedule import Schedule
from .shard import Document, Refusal, Shard

T = TypeVar("T")


class MemoryEngine:
    """`send` answers the requests that knnex sends while it ingests; each item of a bulk is a step of its own."""

    def __init__(self, schedule: Schedule, index: str, faults: float, alias: str = "films") -> None:
        self.schedule, self.alias, self.faults = schedule, alias, faults
        self.dialect = Elasticsearch((9, 5, 0))
        self.violations: list[str] = []
        self.indexes = {index: Shard(schedule, index, self.violations)}
        self.aliases: dict[str, dict[str, Document]] = {
            alias: {index: {"is_write_index": True}},
            f"{index}-w": {index: {}},
        }
        # The documents of the hidden index, with their sequence numbers; None while there is no such index.
        self.control: dict[str, tuple[Document, int]] | None = None
        self.changes = self.bulks = 0
        # Asked to look at an index that was made.
        self.grown: Callable[[Shard], object] = lambda _: None
        # What others wrote last, None where they deleted.
        self.theirs: dict[str, Document | None] = {}

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        return drive(flow, self.send)

    def send(self, request: Request) -> Response:
        """One request, which may be lost before it is done, or its answer after."""
        name, verb, *_ = [*request.path[1:].split("/"), ""]
        if name.startswith("_"):
            name, verb = "", name
        self.schedule.pause(f"{request.method} {request.path}")
        luck = self.schedule.chance.random()
        if luck < self.faults / 3:
            raise EngineUnreachable("the connection was cut before")
        if luck < self.faults * 2 / 3:
            raise EngineBusy("429")
        try:
            answer = getattr(self, request.method.lower() + (verb or "_index"))(name, request)
            response = Response(200, answer)
        except Refusal as refusal:
            if refusal.status not in request.allow:
                raise refused(refusal.status, refusal.body, f"{request.method} {request.path}") from None
            response = Response(refusal.status, refusal.body)
        if luck < self.faults:
            raise EngineUnreachable("the connection was cut after")
        return response

    def restart(self) -> None:
        """Kill and start: what was acknowledged stays, what is only remembered is gone."""
        for shard in self.indexes.values():
            shard.restart()

    @property
    def live(self) -> Shard:
        """What the alias points at; it must be one index."""
        (name,) = self.aliases[self.alias]
        return self.indexes[name]

    def named(self, name: str) -> list[Shard]:
        """The index of a name, or those of an alias."""
        found = [name] if name in self.indexes else self.aliases.get(name, {})
        if not found:
            raise Refusal(404, "index_not_found_exception", f"no such index [{name}]")
        return [self.indexes[one] for one in found]

    def one(self, name: str) -> Shard:
        """The index of a name, or the one that an alias writes to."""
        found = self.named(name)
        options = self.aliases.get(name, {})
        if len(found) > 1:
            found = [one for one in found if options[one.name].get("is_write_index")]
        if len(found) != 1:
            raise Refusal(400, "illegal_argument_exception", f"no write index is defined for alias [{name}]")
        return found[0]

    def put_index(self, name: str, request: Request) -> Document:
        if name in self.indexes or (name == "knnex-control" and self.control is not None):
            raise Refusal(400, "resource_already_exists_exception", f"index [{name}] already exists")
        if name == "knnex-control":
            self.control = {}
            return {}
        body: Any = request.body
        self.indexes[name] = Shard(self.schedule, name, self.violations, body)
        self.grown(self.indexes[name])
        for alias, options in body.get("aliases", {}).items():
            self.aliases.setdefault(alias, {})[name] = options
        return {"acknowledged": True}

    def get_doc(self, _: str, request: Request) -> Document:
        id_ = request.path.rsplit("/", 1)[-1]
        if self.control is None or id_ not in self.control:
            raise Refusal(404, "index_not_found_exception", "none")
        source, number = self.control[id_]
        return {"found": True, "_source": source, "_seq_no": number, "_primary_term": 1}

    def put_doc(self, _: str, request: Request) -> Document:
        id_, self.control = request.path.rsplit("/", 1)[-1], self.control or {}
        held = self.control.get(id_)
        expected = None if "op_type" in request.params else int(request.params["if_seq_no"])
        if (held and held[1]) != expected:
            raise Refusal(409, "version_conflict_engine_exception", "changed")
        self.changes += 1
        self.control[id_] = orjson.loads(orjson.dumps(request.body)), self.changes
        return {"_seq_no": self.changes, "_primary_term": 1}

    def get_mapping(self, name: str, _: Request) -> Document:
        return {one.name: {"mappings": one.mapping} for one in self.named(name)}

    def put_mapping(self, name: str, request: Request) -> Document:
        (shard,) = self.named(name)
        shard.mapping = shard.mapping | orjson.loads(orjson.dumps(request.body))
        return {"acknowledged": True}

    def get_settings(self, name: str, _: Request) -> Document:
        if name.endswith("*"):
            made = {"settings": {"index": {"creation_date": "0"}}}
            return {one: made for one in self.indexes if one.startswith(name[:-1])}
        return {one.name: {"settings": one.settings} for one in self.named(name)}

    def put_settings(self, name: str, request: Request) -> Document:
        (shard,) = self.named(name)
        values: Any = request.body
        if "index.blocks.write" in values:
            shard.blocked = bool(values["index.blocks.write"])
        shard.settings = {**shard.settings, **{key: value for key, value in values.items() if value is not None}}
        return {"acknowledged": True}

    def put_block(self, name: str, _: Request) -> Document:
        """Answers when what was begun is done, as the engines do."""
        (shard,) = self.named(name)
        if shard.blocked and not shard.busy:
            return {"acknowledged": True, "shards_acknowledged": True, "indices": []}
        shard.blocked = True
        self.schedule.until(lambda: not shard.busy, "waits for writes")
        return {"acknowledged": True, "shards_acknowledged": True, "indices": [{"name": name, "blocked": True}]}

    def get_tasks(self, _: str, __: Request) -> Document:
        busy = [shard.name for shard in self.indexes.values() if shard.busy]
        return {"nodes": {"node": {"tasks": {one: {"description": f"requests[1], index[{one}][0]"} for one in busy}}}}

    def get_alias(self, name: str, request: Request) -> Document:
        if name:
            (shard,) = self.named(name)
            held = {alias: where[shard.name] for alias, where in self.aliases.items() if shard.name in where}
            return {shard.name: {"aliases": held}}
        alias = request.path.rsplit("/", 1)[-1]
        if not self.aliases.get(alias):
            raise Refusal(404, "aliases_not_found_exception", f"alias [{alias}] missing")
        return {one: {"aliases": {alias: options}} for one, options in self.aliases[alias].items()}

    def delete_alias(self, name: str, request: Request) -> Document:
        alias = request.path.rsplit("/", 1)[-1]
        if name not in self.aliases.get(alias, {}):
            raise Refusal(404, "aliases_not_found_exception", f"aliases [{alias}] missing")
        del self.aliases[alias][name]
        return {"acknowledged": True}

    def post_aliases(self, _: str, request: Request) -> Document:
        """All of them or none."""
        body: Any = request.body
        changed = {alias: dict(where) for alias, where in self.aliases.items()}
        errors, gone = False, []
        for action in body["actions"]:
            ((what, one),) = action.items()
            if one["index"] not in self.indexes:
                raise Refusal(404, "index_not_found_exception", f"no such index [{one['index']}]")
            if what == "remove_index":
                gone.append(one["index"])
                continue
            where = changed.setdefault(one["alias"], {})
            if what == "add":
                where[one["index"]] = {key: one[key] for key in ("is_write_index", "filter") if key in one}
            elif one["index"] in where:
                del where[one["index"]]
            elif one.get("must_exist"):
                raise Refusal(404, "aliases_not_found_exception", f"aliases [{one['alias']}] missing")
            else:
                errors = True
        for index in gone:
            del self.indexes[index]
            for where in changed.values():
                where.pop(index, None)
        if len(self.aliases[self.alias]) == 1 != len(changed[self.alias]):
            self.violations.append(f"the alias points at {', '.join(changed[self.alias]) or 'nothing'}")
        self.aliases = changed
        return {"acknowledged": True, "errors": errors}

    def post_refresh(self, name: str, _: Request) -> Document:
        self.one(name).refresh()
        return {}

    def get_stats(self, name: str, _: Request) -> Document:
        """`_stats/docs`: where the shard stands."""
        one = self.one(name)
        shard = {
            "routing": {"primary": True, "state": "STARTED"},
            "seq_no": {"max_seq_no": one.next_seq_no - 1, "global_checkpoint": one.checkpoint},
            "commit": {"user_data": {"history_uuid": f"of {name}"}},
        }
        return {"indices": {name: {"shards": {"0": [shard]}}}}

    def post_count(self, name: str, _: Request) -> Document:
        return {"count": len(self.one(name).searchable)}

    def post_mget(self, name: str, request: Request) -> Document:
        assert isinstance(request.body, Mapping)
        shard, params = self.one(name), request.params
        docs: list[Document] = []
        for one in request.body["docs"]:
            held = shard.documents.get(one["_id"])
            if held is None:
                docs.append({"_id": one["_id"], "found": False})
                continue
            hit = shard.hit(one["_id"], held) | {"found": True}
            if "_source_exclude_vectors" not in params:
                hit["_source"] = {key: value for key, value in hit["_source"].items() if key != "v"}
            docs.append(hit)
        return {"docs": docs}

    def post_search(self, name: str, request: Request) -> Document:
        """One search."""
        assert isinstance(request.body, Mapping)
        return self.searched(name, request.body)

    def searched(self, name: str, body: Mapping[str, Any]) -> Document:
        """A range of sequence numbers, in their order; the feed asks which documents have a vector too."""
        shard = self.one(name)
        asked = body["query"]["bool"]
        bounds, feed = asked["filter"][0]["range"]["_seq_no"], "must_not" in asked
        hits = []
        for id_, held in shard.searchable.items():
            source = held["source"]
            note = source.get("_knnex", {})
            if not bounds["gt"] < held["seq_no"] <= bounds["lte"] or (feed and note.get("deleted")):
                continue
            hit = shard.hit(id_, held)
            if body["_source"] is False:
                hit["fields"] = {"_knnex.version": [note["version"]]} if "version" in note else {}
                del hit["_source"]
            elif feed or "v" in body["_source"].get("excludes", ()):
                hit["_source"] = {key: value for key, value in source.items() if key != "v"}
            hits.append(hit | ({"matched_queries": ["v"] if source.get("v") else []} if feed else {}))
        hits.sort(key=lambda hit: int(hit["_seq_no"]))
        return {"hits": {"hits": hits[: body["size"]]}}

    def post_msearch(self, name: str, request: Request) -> Document:
        """Searches; or how many sequence numbers there are in each span of them, or among some."""
        answers: list[Document] = []
        lines: Any = request.body
        for body in lines[1::2]:
            if "aggs" not in body:
                answers.append(self.searched(name, body))
                continue
            width = body["aggs"]["spans"]["histogram"]["interval"]
            places = [held["seq_no"] for held in self.one(name).searchable.values()]
            among = body["query"]["terms"]["_seq_no"] if "query" in body else places
            counts = Counter(at // width * width for at in places if at in among)
            buckets = [{"key": float(key), "doc_count": count} for key, count in sorted(counts.items())]
            answers.append({"aggregations": {"spans": {"buckets": buckets}}})
        return {"responses": answers}

    def post_bulk(self, name: str, request: Request) -> Document:
        """What an alias means, and whether writes are refused, is looked up once; then the items are done, whatever
        becomes of him who sent them."""
        assert isinstance(request.body, tuple)
        lines = iter([orjson.loads(line) if isinstance(line, bytes) else line for line in request.body])
        works = [(op, action, None if op == "delete" else next(lines)) for line in lines for op, action in line.items()]
        try:
            if "require_alias" in request.params and not self.aliases.get(name):
                raise Refusal(404, "index_not_found_exception", f"no such index [{name}] and [require_alias] is set")
            shard = self.one(name)
            shard.let_in()
        except Refusal as refusal:
            answer = {"status": refusal.status, "error": refusal.body["error"]}
            return {"errors": True, "items": [_answer(op, action, answer) for op, action, _ in works]}
        items: list[Document] = []
        pauses = [self.schedule.chance.random() < 0.3 for _ in works]

        def work() -> None:
            for pause, (op, action, source) in zip(pauses, works, strict=True):
                if pause:
                    self.schedule.pause(f"{op} {action['_id']} of {shard.name}")
                items.append(_answer(op, action, shard.item(op, action, source)))
            shard.bulks.discard(self.schedule.process)

        if any(pauses):
            self.bulks += 1
            name = f"bulk-{self.bulks} of {self.schedule.process}"
            shard.bulks.add(name)
            self.schedule.start(name, work)
            self.schedule.until(lambda: len(items) == len(works), "waits for its bulk")
        else:
            work()
        return {"errors": True, "items": items}

    def foreign(self, id_: str, source: Document | None) -> bool:
        """A write or a delete by somebody else through the alias; False where it is refused for now."""
        shard = self.one(self.alias)
        if shard.blocked:
            return False
        if shard.foreign(id_, source):
            self.theirs[id_] = source
        return True


def _answer(op: str, action: Document, result: Document) -> Document:
    return {op: {"_id": action["_id"]} | result}
