// What was dropped on the page: files, and the files of folders.

// { name, files } of a DataTransfer: name of the first file or folder. Its items must be taken before the event ends, as here.
// A page from file:// may read a folder only through its handle in Chromium; other browsers have no handles, and read its entry.
export async function droppedFiles(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const dropped = items.map((item) => [item.getAsFile(), item.webkitGetAsEntry?.(), item.getAsFileSystemHandle?.()]);
  const files = await Promise.all(dropped.map(async ([file, entry, handle]) => {
    if (!entry?.isDirectory) return [file];
    return handle ? filesOfHandle(await handle) : filesOfEntry(entry);
  }));
  return { name: dropped[0]?.[1]?.name ?? dropped[0]?.[0].name, files: files.flat() };
}

async function filesOfHandle(handle) {
  if (handle.kind === "file") return [await handle.getFile()];
  const files = [];
  for await (const inside of handle.values()) files.push(...(await filesOfHandle(inside)));
  return files;
}

async function filesOfEntry(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most a hundred at a time
    if (!some.length) return files;
    for (const inside of some) files.push(...(await filesOfEntry(inside)));
  }
}
