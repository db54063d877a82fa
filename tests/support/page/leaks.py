"""Finds a key in all places that a page of a browser has. Every detector is proven by a seeded leak."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, Page

# What a script of the page could read: text, values and attributes through all shadow roots, storage,
# cookies, history, addresses, performance entries, and the last text of a regular expression.
_READABLE = """async () => {
  const found = { text: [], values: [], attributes: [], properties: [] };
  const visit = (root) => {
    for (const child of root.childNodes) if (child.nodeType === 3) found.text.push(child.data);
    for (const node of root.querySelectorAll('*')) {
      for (const it of node.attributes) found.attributes.push(it.name + '=' + it.value);
      if ('value' in node && typeof node.value === 'string') found.values.push(node.value);
      for (const [name, it] of Object.entries(node)) if (typeof it === 'string') found.properties.push(it);
      for (const child of node.childNodes) if (child.nodeType === 3) found.text.push(child.data);
      if (node.shadowRoot) visit(node.shadowRoot);
    }
  };
  visit(document);
  const cached = [];
  for (const name of await caches.keys()) {
    cached.push(name);
    const cache = await caches.open(name);
    for (const request of await cache.keys()) cached.push(request.url, await (await cache.match(request)).text());
  }
  const done = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const records = [];
  for (const { name } of await indexedDB.databases()) {
    records.push(name);
    const database = await done(indexedDB.open(name));
    for (const store of database.objectStoreNames)
      records.push(store, JSON.stringify(await done(database.transaction(store).objectStore(store).getAll())));
    database.close();
  }
  return {
    ...found,
    local: Object.entries(localStorage).flat(), session: Object.entries(sessionStorage).flat(),
    caches: cached, databases: records, cookies: [document.cookie],
    history: [JSON.stringify(history.state)], address: [location.href, document.title, window.name, document.referrer, ...navigation.entries().map((it) => it.url)],
    performance: performance.getEntries().map((it) => it.name),
    regexp: [RegExp.$_, RegExp.$1, RegExp['$&'], RegExp['$`'], RegExp["$'"]],
    globals: Object.getOwnPropertyNames(window).filter((it) => typeof window[it] === 'string').map((it) => window[it]),
  };
}"""


def parts_of(key: str) -> list[str]:
    """Long parts of the secret middle: whatever holds one of them holds most of the key."""
    middle = key[20:-8]
    return [middle[at : at + 12] for at in range(0, len(middle) - 12, 6)]


def holds(text: str, key: str) -> bool:
    return any(part in text for part in parts_of(key))


async def readable(page: Page) -> dict[str, list[str]]:
    found: dict[str, list[str]] = await page.evaluate(_READABLE)
    return found


async def places_with(page: Page, key: str) -> list[str]:
    """The names of the places in the page that hold the key."""
    return [
        name for name, texts in (await readable(page)).items() if any(holds(str(it), key) for it in texts)
    ]


async def heap_strings(session: CDPSession) -> list[str]:
    """All strings of the heap, after a garbage collection."""
    chunks: list[str] = []
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda event: chunks.append(event["chunk"]))
    await session.send("HeapProfiler.collectGarbage")
    await session.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    strings: list[str] = json.loads("".join(chunks))["strings"]
    return strings


def requests_with(requests: list[Any], key: str) -> Iterator[str]:
    """Where requests carry the key: method, path, and which part."""
    for request in requests:
        path = "/" + request.url.partition("//")[2].partition("/")[2].partition("?")[0]
        if holds(request.url, key):
            yield f"{request.method} {path} url"
        if holds(json.dumps(request.headers), key):
            yield f"{request.method} {path} headers"
        if request.post_data and holds(request.post_data, key):
            yield f"{request.method} {path.rpartition('/')[2]} body"


def files_with(directory: Path, key: str) -> list[str]:
    """The files of a profile that hold the key, in one byte or two bytes a character."""
    needles = [part.encode(encoding) for part in parts_of(key) for encoding in ("utf-8", "utf-16-le")]
    return [
        path.name
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and any(it in path.read_bytes() for it in needles)
    ]
